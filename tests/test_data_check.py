"""``data check``: a clean tree has no defect, and each defect is found by file."""

import shutil
import subprocess
import sys

import pytest
from conftest import save_image, save_list

from reid_core.__main__ import main
from reid_core.data import DatasetError, read_sysu
from reid_core.data.check import check

IMAGE = "cam3/0002/0002.jpg"


@pytest.fixture
def found():
    """Checks a folder and returns its defects as {path: (defect, severity)}."""

    def run(name, root):
        defects = check(name, root).defects
        assert not defects.advice.eq("").any()
        return {d.path: (d.defect, d.severity) for d in defects.itertuples()}

    return run


def only(defects: dict, path: str, defect: str, severity: str) -> None:
    assert list(defects) == [path]
    assert defect in defects[path][0]
    assert defects[path][1] == severity


@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm"])
def test_clean_tree_has_no_defect(name, request):
    report = check(name, request.getfixturevalue(name))
    assert report.defects.empty
    assert report.errors == 0
    assert (report.counts.found > 0).any()
    assert "subset" in str(report)  # counts differ from the published ones: a note, no defect


def test_counts(sysu, regdb, llcm):
    # the three fixtures share one folder, which no check minds
    counts = check("sysu", sysu).counts.set_index("what")
    assert counts.found["identities, train + val"] == 2
    assert counts.published["identities, train + val"] == 395
    assert counts.found["images, test, visible"] == 8
    assert counts.found["images, test, cam3"] == 2
    assert counts.difference["images, test, cam3"] == 2 - 1883
    counts = check("regdb", regdb).counts.set_index("what")
    assert counts.found["images, visible"] == 8
    assert counts.found["images, trial 10, test"] == 8
    counts = check("llcm", llcm).counts.set_index("what")
    assert counts.found["images, test, infrared"] == 8
    assert counts.found["originals of test images (left out)"] == 4


def test_real_crops_are_clean(real_data, tmp_path):
    for camera in (real_data / "sysu_mm01_sample").glob("cam*"):
        (tmp_path / camera.name).symlink_to(camera)
    for split, ids in (("train", "1,2"), ("val", "3"), ("test", "4,5")):
        save_list(tmp_path / f"exp/{split}_id.txt", [ids])
    assert check("sysu", tmp_path).defects.empty


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_missing_id_list(sysu, found, split):
    (sysu / f"exp/{split}_id.txt").unlink()
    only(found("sysu", sysu), f"exp/{split}_id.txt", "missing", "error")


def test_empty_id_list(sysu, found):
    save_list(sysu / "exp/val_id.txt", [])
    only(found("sysu", sysu), "exp/val_id.txt", "no identity listed", "warning")


def test_missing_camera(sysu, found):
    shutil.rmtree(sysu / "cam6")
    only(found("sysu", sysu), "cam6", "missing", "error")


def test_empty_camera(sysu, found):
    shutil.rmtree(sysu / "cam6")
    (sysu / "cam6").mkdir()
    only(found("sysu", sysu), "cam6", "empty", "error")


def test_camera_without_listed_identity(sysu, found):
    shutil.rmtree(sysu / "cam6")
    save_image(sysu / "cam6/0400/0001.jpg")
    only(found("sysu", sysu), "cam6", "no image of a listed identity", "error")


def test_empty_identity_folder(sysu, found):
    (sysu / "cam6/0004").mkdir()
    only(found("sysu", sysu), "cam6/0004", "empty folder", "error")


def test_identity_in_two_splits(sysu, found):
    save_list(sysu / "exp/test_id.txt", ["1,3"])
    only(found("sysu", sysu), "exp/test_id.txt", "identity 1 is also in exp/train_id.txt", "error")


def test_identity_listed_twice(sysu, found):
    save_list(sysu / "exp/test_id.txt", ["3,3"])
    only(found("sysu", sysu), "exp/test_id.txt", "identity 3 is listed 2 times", "warning")


def test_listed_identities_without_images(sysu, found):
    save_list(sysu / "exp/test_id.txt", ["3,7,9"])
    only(
        found("sysu", sysu), "exp/test_id.txt", "2 listed identities have no image: 7, 9", "warning"
    )


def test_identities_in_no_list_are_counted_and_decoded(sysu, found):
    shutil.copytree(sysu / "cam1/0003", sysu / "cam1/0400")
    counts = check("sysu", sysu).counts.set_index("what")
    assert counts.found["identities in no list (left out)"] == 1
    assert counts.found["images of identities in no list"] == 2
    assert found("sysu", sysu) == {}
    (sysu / "cam1/0400/0001.jpg").write_bytes(b"")
    only(found("sysu", sysu), "cam1/0400/0001.jpg", "zero bytes", "error")


def test_zero_bytes(sysu, found):
    (sysu / IMAGE).write_bytes(b"")
    only(found("sysu", sysu), IMAGE, "zero bytes", "error")


def test_not_an_image(sysu, found):
    (sysu / IMAGE).write_bytes(b"<html>sign in to download</html>")
    only(found("sysu", sysu), IMAGE, "not an image", "error")


def test_folder_in_place_of_an_image(sysu, found):
    (sysu / IMAGE).unlink()
    (sysu / IMAGE).mkdir()
    assert found("sysu", sysu)[IMAGE][1] == "error"


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated_jpeg(sysu, found, kept):
    data = (sysu / IMAGE).read_bytes()
    (sysu / IMAGE).write_bytes(data[: int(len(data) * kept)])
    defects = found("sysu", sysu)
    assert list(defects) == [IMAGE]
    assert defects[IMAGE][1] == "error"


def test_jpeg_filled_with_zeros(sysu, found):
    data = (sysu / IMAGE).read_bytes()
    (sysu / IMAGE).write_bytes(data[:-8] + bytes(8))
    only(found("sysu", sysu), IMAGE, "truncated", "error")


def test_truncated_bmp(regdb, found):
    path = regdb / "Thermal/2/a_2.bmp"
    path.write_bytes(path.read_bytes()[:-20])
    only(found("regdb", regdb), "Thermal/2/a_2.bmp", "truncated", "error")


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("P", "PNG")],
)
def test_odd_modes_are_warnings(sysu, found, mode, image_format):
    save_image(sysu / IMAGE, mode, image_format)
    only(found("sysu", sysu), IMAGE, f"mode {mode}, expected RGB", "warning")


def test_gap_in_numbering(sysu, found):
    save_image(sysu / "cam1/0001/0005.jpg")
    only(found("sysu", sysu), "cam1/0001", "numbers 0003, 0004 are missing", "error")


def test_numbering_that_does_not_start_at_one(sysu, found):
    (sysu / "cam1/0001/0001.jpg").unlink()
    only(found("sysu", sysu), "cam1/0001", "numbers 0001 are missing", "error")
    assert len(read_sysu(sysu)) == 35  # complete as far as it goes: the reader takes it


@pytest.mark.parametrize("name", ["3.jpg", "0000.jpg", "0003.jpeg"])
def test_wrong_image_name(sysu, found, name):
    save_image(sysu / "cam1/0001" / name)
    only(found("sysu", sysu), f"cam1/0001/{name}", "wrong name", "error")


def test_wrong_identity_folder(sysu, found):
    save_image(sysu / "cam1/00012/0001.jpg")
    assert found("sysu", sysu)["cam1/00012"][1] == "error"


@pytest.mark.parametrize("path", ["cam1/0001/Thumbs.db", "cam2/notes.txt", "cam2/new/0001.jpg"])
def test_foreign_file(sysu, found, path):
    (sysu / path).parent.mkdir(exist_ok=True)
    (sysu / path).write_text("not of the dataset")
    only(found("sysu", sysu), path, "not in the index", "warning")


def test_regdb_missing_list_of_any_trial(regdb, found):
    (regdb / "idx/test_thermal_7.txt").unlink()
    only(found("regdb", regdb), "idx/test_thermal_7.txt", "missing", "error")


def test_regdb_missing_image_is_reported_once_for_ten_trials(regdb, found):
    (regdb / "Visible/2/a_2.bmp").unlink()
    only(found("regdb", regdb), "Visible/2/a_2.bmp", "listed, but there is no such file", "error")


def test_regdb_image_in_no_list(regdb, found):
    save_image(regdb / "Visible/2/new.bmp")
    only(found("regdb", regdb), "Visible/2/new.bmp", "not in the index", "warning")


def test_regdb_image_listed_twice(regdb, found):
    path = regdb / "idx/train_visible_3.txt"
    path.write_text(path.read_text() + "Visible/1/a_1.bmp 0\n")
    expected = "image Visible/1/a_1.bmp is listed 2 times"
    only(found("regdb", regdb), "idx/train_visible_3.txt", expected, "warning")


def test_llcm_missing_and_empty_cameras(llcm, found):
    shutil.rmtree(llcm / "test_nir/cam4")
    shutil.rmtree(llcm / "test_vis/cam9/0003")
    defects = found("llcm", llcm)
    assert set(defects) == {"test_nir/cam4", "test_vis/cam9"}
    assert {severity for _, severity in defects.values()} == {"error"}


def test_llcm_training_image_in_no_list(llcm, found):
    save_image(llcm / "vis/0001/new.jpg")
    only(found("llcm", llcm), "vis/0001/new.jpg", "not in the index", "warning")


def test_everything_is_reported_at_once(sysu, found):
    (sysu / "exp/val_id.txt").unlink()
    shutil.rmtree(sysu / "cam4")
    (sysu / "cam1/0001/0001.jpg").write_bytes(b"")
    save_image(sysu / "cam1/0001/0002.jpg", "L")
    assert set(found("sysu", sysu)) == {
        "exp/val_id.txt",
        "cam4",
        "cam1/0001/0001.jpg",
        "cam1/0001/0002.jpg",
    }


@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm"])
def test_an_empty_folder_is_reported_not_raised(name, tmp_path):
    assert check(name, tmp_path).errors > 0


def test_unknown_dataset_lists_the_choices(tmp_path):
    with pytest.raises(DatasetError, match="sysu, regdb, llcm"):
        check("market", tmp_path)


def test_command_line(sysu, capsys):
    assert main(["data", "check", "sysu", str(sysu)]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    save_image(sysu / IMAGE, "L")
    assert main(["data", "check", "sysu", str(sysu)]) == 0
    assert f"warning: {IMAGE}: mode L" in capsys.readouterr().out
    (sysu / IMAGE).write_bytes(b"")
    assert main(["data", "check", "paperdolls-sysu", str(sysu)]) == 1, "as its layout"
    assert f"error: {IMAGE}: zero bytes" in capsys.readouterr().out


def test_command_line_says_in_one_line_that_there_is_no_folder(tmp_path):
    command = [sys.executable, "-m", "reid_core", "data", "check", "sysu", str(tmp_path / "no")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "no such folder" in done.stderr

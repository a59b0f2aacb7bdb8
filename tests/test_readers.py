"""The readers: three real layouts, one index table."""

import shutil

import numpy as np
import pytest
from conftest import save_image, save_list
from scipy.io import savemat

from reid_core.data import DATASETS, DatasetError, read_llcm, read_regdb, read_sysu

COLUMNS = ["path", "identity", "camera", "modality", "split", "frame"]


def test_sysu_reads_every_listed_image_in_order(sysu):
    table = read_sysu(sysu)
    assert list(table.columns) == COLUMNS
    assert list(table.index) == list(range(36))
    assert tuple(table.iloc[0]) == ("cam1/0001/0001.jpg", 1, 1, "visible", "train", 1)
    assert tuple(table.iloc[-1]) == ("cam6/0003/0002.jpg", 3, 6, "infrared", "test", 2)
    keys = list(zip(table.identity, table.camera, table.frame, strict=True))
    assert keys == sorted(keys)
    assert set(table.camera[table.modality == "infrared"]) == {3, 6}
    assert dict(zip(table.identity, table.split, strict=True)) == {1: "train", 2: "val", 3: "test"}


def test_sysu_leaves_out_unlisted_and_allows_absent_identities(sysu):
    shutil.copytree(sysu / "cam1/0003", sysu / "cam1/0400")
    shutil.rmtree(sysu / "cam3/0003")
    table = read_sysu(sysu)
    assert len(table) == 34
    assert 400 not in set(table.identity)


@pytest.mark.parametrize("text", ["1,3", "1,3,\n", "3,1\r\n", " 1, 3 ,\r\n", "\ufeff1,3\n"])
def test_id_lists_of_every_line_ending(sysu, text):
    (sysu / "exp/test_id.txt").write_bytes(text.encode())
    save_list(sysu / "exp/train_id.txt", [])
    table = read_sysu(sysu)
    assert set(table.identity[table.split == "test"]) == {1, 3}
    assert "train" not in set(table.split)  # an empty list is allowed


def test_sysu_reads_matlab_lists_unless_there_is_text(sysu):
    savemat(sysu / "exp/train_id.mat", {"id": np.array([[1, 2]], "uint16")})
    savemat(sysu / "exp/val_id.mat", {"id": np.zeros((1, 0), "uint16")})
    assert len(read_sysu(sysu)) == 36
    (sysu / "exp/train_id.txt").unlink()
    (sysu / "exp/val_id.txt").unlink()
    assert set(read_sysu(sysu).query("split == 'train'").identity) == {1, 2}


def test_sysu_real_crops(real_data, tmp_path):
    for camera in (real_data / "sysu_mm01_sample").glob("cam*"):
        (tmp_path / camera.name).symlink_to(camera)
    for split, ids in (("train", ""), ("val", ""), ("test", "1,2,3,4,5")):
        save_list(tmp_path / f"exp/{split}_id.txt", [ids])
    table = read_sysu(tmp_path)
    assert len(table) == 60
    assert (table.groupby(["identity", "camera"]).size() == 2).all()
    assert all((tmp_path / path).is_file() for path in table.path)


def test_sysu_real_matlab_lists(real_data, sysu):
    for split in ("train", "test"):
        (sysu / f"exp/{split}_id.txt").unlink()
        shutil.copy(real_data / f"sysu_mm01_protocol/{split}_id.mat", sysu / "exp")
    save_list(sysu / "exp/val_id.txt", ["3"])  # 1 and 2 are training identities of the dataset
    assert set(read_sysu(sysu).query("split == 'train'").identity) == {1, 2}


@pytest.mark.parametrize("trial", [1, 2, 10])
def test_regdb_identity_is_the_folder_not_the_label(regdb, trial):
    table = read_regdb(regdb, trial)
    assert list(table.columns) == COLUMNS
    assert len(table) == 16
    train = {1, 2} if trial % 2 else {10, 11}
    assert set(table.identity[table.split == "train"]) == train
    assert set(zip(table.camera, table.modality, strict=True)) == {(1, "visible"), (2, "infrared")}


def test_frames_follow_code_points_whatever_the_lists_order(regdb):
    names = ["a", "é", "Z", "10", "9"]
    lines = []
    for name in names:
        save_image(regdb / f"Visible/1/{name}.bmp")
        lines.append(f"Visible/1/{name}.bmp 0")
    save_list(regdb / "idx/train_visible_1.txt", lines)
    table = read_regdb(regdb).query("identity == 1 and camera == 1")
    assert list(table.path) == [f"Visible/1/{name}.bmp" for name in ("10", "9", "Z", "a", "é")]
    assert list(table.frame) == [1, 2, 3, 4, 5]


def test_regdb_windows_line_endings(regdb):
    path = regdb / "idx/train_visible_1.txt"
    before = read_regdb(regdb)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert read_regdb(regdb).equals(before)


def test_llcm_takes_training_cameras_from_names_and_test_cameras_from_folders(llcm):
    table = read_llcm(llcm)
    assert list(table.columns) == COLUMNS
    train, test = table[table.split == "train"], table[table.split == "test"]
    assert set(train.identity) == {1, 2}
    assert set(train.camera) == {4, 5}
    assert len(test) == 17
    assert set(test.camera[test.modality == "infrared"]) == {1, 2, 4, 5, 6, 7, 8, 9}
    assert test.path.str.startswith("test_").all()


def test_llcm_training_name_without_camera(llcm):
    save_image(llcm / "vis/0001/picture.jpg")
    with (llcm / "idx/train_vis.txt").open("a") as file:
        file.write("vis/0001/picture.jpg 0\n")
    assert read_llcm(llcm).set_index("path").camera["vis/0001/picture.jpg"] == 0


def test_names_of_the_datasets():
    assert list(DATASETS.items()) == [
        ("sysu", read_sysu),
        ("regdb", read_regdb),
        ("llcm", read_llcm),
    ]


@pytest.mark.parametrize("name", DATASETS)
def test_missing_root_is_named(name, tmp_path):
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        DATASETS[name](tmp_path / "nowhere")


@pytest.mark.parametrize("trial", [0, 11, "1"])
def test_regdb_refuses_other_trials(regdb, trial):
    with pytest.raises(DatasetError, match="trials 1 to 10"):
        read_regdb(regdb, trial)


def test_sysu_refuses_missing_camera(sysu):
    shutil.rmtree(sysu / "cam4")
    with pytest.raises(DatasetError, match="/cam4: missing"):
        read_sysu(sysu)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_sysu_refuses_missing_list(sysu, split):
    (sysu / f"exp/{split}_id.txt").unlink()
    with pytest.raises(DatasetError, match=rf"/exp/{split}_id\.txt: missing"):
        read_sysu(sysu)


@pytest.mark.parametrize("word", ["x", "-1", "1.5", "1 2", "²"])
def test_sysu_refuses_what_is_no_identity(sysu, word):
    save_list(sysu / "exp/val_id.txt", [f"2,{word}"])
    with pytest.raises(DatasetError, match=r"/exp/val_id\.txt: .* is not an identity"):
        read_sysu(sysu)


def test_sysu_refuses_damaged_matlab_list(sysu):
    (sysu / "exp/val_id.txt").unlink()
    (sysu / "exp/val_id.mat").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"/exp/val_id\.mat: unreadable"):
        read_sysu(sysu)


def test_sysu_refuses_an_identity_in_two_splits(sysu):
    save_list(sysu / "exp/test_id.txt", ["1,3"])
    with pytest.raises(
        DatasetError, match=r"test_id\.txt: identity 1 is also in exp/train_id\.txt"
    ):
        read_sysu(sysu)


@pytest.mark.parametrize(
    "name", ["1.jpg", "00001.jpg", "0000.jpg", "0003.JPG", "0003.png", "x.jpg"]
)
def test_sysu_drops_no_misnamed_image(sysu, name):
    save_image(sysu / "cam1/0001" / name)
    with pytest.raises(DatasetError, match=f"/cam1/0001/{name}: wrong name"):
        read_sysu(sysu)


def test_sysu_drops_no_misnamed_identity(sysu):
    (sysu / "cam1/0001").rename(sysu / "cam1/1")
    with pytest.raises(DatasetError, match=r"/cam1/1: .* rename it to 0001"):
        read_sysu(sysu)


def test_the_first_error_counts_the_others(sysu):
    shutil.rmtree(sysu / "cam4")
    shutil.rmtree(sysu / "cam5")
    with pytest.raises(DatasetError, match="and 1 more"):
        read_sysu(sysu)


@pytest.mark.parametrize(
    "line",
    [
        "/etc/passwd 0",
        "../outside.bmp 0",
        "Visible/1/../../../outside.bmp 0",
        "Visible/../Visible/1/a_1.bmp 0",
        r"Visible\1\a_1.bmp 0",
        "Thermal/1/a_1.bmp 0",
        "Visible/1/a_1.bmp",
        "Visible/1/a_1.bmp zero",
    ],
)
def test_lists_refuse_malformed_lines_and_paths_out_of_the_folder(regdb, line):
    save_list(regdb / "idx/train_visible_1.txt", ["Visible/1/b_1.bmp 0", line])
    with pytest.raises(DatasetError, match=r"/idx/train_visible_1\.txt: line 2"):
        read_regdb(regdb)


@pytest.mark.parametrize("name", ["missing.bmp", ".."])
def test_lists_refuse_what_is_no_file(regdb, name):
    save_list(regdb / "idx/train_visible_1.txt", [f"Visible/1/{name} 0"])
    with pytest.raises(DatasetError, match=f"/Visible/1/{name}: listed, but there is no such file"):
        read_regdb(regdb)


def test_regdb_refuses_missing_list(regdb):
    (regdb / "idx/test_thermal_3.txt").unlink()
    assert len(read_regdb(regdb, 1)) == 16
    with pytest.raises(DatasetError, match=r"/idx/test_thermal_3\.txt: missing"):
        read_regdb(regdb, 3)


@pytest.mark.parametrize("label", [0, 5])
def test_regdb_refuses_labels_that_are_not_one_to_one(regdb, label):
    lines = ["Visible/1/a_1.bmp 0", "Visible/2/a_2.bmp 1", f"Visible/2/b_2.bmp {label}"]
    save_list(regdb / "idx/train_visible_1.txt", lines)
    with pytest.raises(DatasetError, match=rf"/Visible/2/b_2\.bmp: label {label} for identity 2"):
        read_regdb(regdb)


def test_regdb_refuses_labels_that_differ_between_modalities(regdb):
    save_list(regdb / "idx/test_thermal_1.txt", ["Thermal/10/a_10.bmp 1", "Thermal/11/a_11.bmp 0"])
    with pytest.raises(DatasetError, match=r"/Thermal/10/a_10\.bmp: label 1 for identity 10"):
        read_regdb(regdb)


def test_regdb_refuses_one_image_with_two_labels(regdb):
    save_list(regdb / "idx/train_visible_1.txt", ["Visible/1/a_1.bmp 0", "Visible/1/a_1.bmp 1"])
    with pytest.raises(
        DatasetError, match=r"/idx/train_visible_1\.txt: line 2: Visible/1/a_1\.bmp"
    ):
        read_regdb(regdb)


def test_regdb_refuses_an_identity_in_both_splits(regdb):
    save_list(regdb / "idx/test_visible_1.txt", ["Visible/1/a_1.bmp 0"])
    save_list(regdb / "idx/test_thermal_1.txt", ["Thermal/1/a_1.bmp 0"])
    with pytest.raises(DatasetError, match=r"_1\.txt: identity 1 is also in idx/train"):
        read_regdb(regdb)


def test_an_image_listed_twice_is_one_row(regdb):
    before = read_regdb(regdb)
    path = regdb / "idx/train_visible_1.txt"
    path.write_text(path.read_text() * 2)
    assert read_regdb(regdb).equals(before)


def test_llcm_refuses_missing_camera_and_list(llcm):
    shutil.rmtree(llcm / "test_nir/cam4")
    with pytest.raises(DatasetError, match="/test_nir/cam4: missing"):
        read_llcm(llcm)
    (llcm / "idx/test_id.txt").unlink()
    with pytest.raises(DatasetError, match=r"/idx/test_id\.txt: missing.*and 1 more"):
        read_llcm(llcm)


def test_llcm_refuses_an_identity_in_both_splits(llcm):
    save_list(llcm / "idx/test_id.txt", ["2,3"])
    with pytest.raises(DatasetError, match=r"/idx/test_id\.txt: identity 2 is also in"):
        read_llcm(llcm)

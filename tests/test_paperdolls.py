"""PaperDolls: the same to the byte, in the real layouts, and never over anything else."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from reid_core.__main__ import main
from reid_core.data import DatasetError, paperdolls, read_regdb, read_sysu
from reid_core.data.check import check
from reid_core.data.images import decode
from reid_core.data.paperdolls import draw_regdb, draw_sysu, real_inventory
from reid_core.retrieval import evaluate
from reid_core.retrieval.candidates import LABELS

SYSU = {"train": 4, "val": 2, "test": 4, "images": 2, "height": 40, "width": 16}
REGDB = {"train": 3, "test": 3, "images": 2, "height": 40, "width": 16}
LAYOUTS = pytest.mark.parametrize("draw, settings", [(draw_sysu, SYSU), (draw_regdb, REGDB)])


def hashes(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@LAYOUTS
def test_the_same_to_the_byte_from_a_seed(tmp_path, monkeypatch, draw, settings):
    assert draw(tmp_path / "two", seed=3, workers=2, **settings) > 0
    monkeypatch.setattr("time.asctime", lambda *_: "another day")  # .mat files are dated
    draw(tmp_path / "one", seed=3, workers=1, **settings)
    draw(tmp_path / "other", seed=4, workers=1, **settings)
    one, two, other = (hashes(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    pictures = [name for name in one if name.endswith((".jpg", ".bmp"))]
    assert all(one[name] != other[name] for name in pictures)
    assert len({one[name] for name in pictures}) == len(pictures)


def test_sysu_layout(tmp_path):
    # 2 of 5 people are under all six cameras, the others (2, 3, 4, 7, 8, 9) never under 1 and 2
    assert draw_sysu(tmp_path, workers=1, **SYSU) == 2 * (10 * 6 - 6 * 2)
    assert check("sysu", tmp_path).defects.empty
    table = read_sysu(tmp_path)
    assert len(table) == 96
    assert table.groupby("split").identity.nunique().to_dict() == {"train": 4, "val": 2, "test": 4}
    assert set(table[table.camera < 3].identity) == {1, 5, 6, 10}
    assert set(table[table.camera > 2].identity) == set(range(1, 11))
    listed = (tmp_path / "exp/available_id.txt").read_text()
    assert listed == "1,2,3,4,5,6,7,8,9,10\n"


def test_sysu_permutations_serve_the_official_gallery(tmp_path):
    draw_sysu(tmp_path, workers=1, **SYSU)
    content = loadmat(tmp_path / "exp/rand_perm_cam.mat")
    cells = content["rand_perm_cam"]
    for row in read_sysu(tmp_path).itertuples():
        drawn = cells[row.camera - 1, 0][row.identity - 1, 0]
        assert drawn.shape == (10, 2)
        assert (np.sort(drawn, axis=1) == [1, 2]).all()
    assert cells[0, 0][2, 0].shape == (10, 0)  # person 3 is never under camera 1

    table = read_sysu(tmp_path).query("split == 'test'")
    features = np.eye(11)[table.identity]
    arrays = [table[c].to_numpy() for c in LABELS]
    choice = {"protocol": "sysu", "mode": "all", "gallery": "official", "permutations": content}
    assert evaluate(features, *arrays, **choice).mean["rank1"] == 1


def test_regdb_layout(tmp_path):
    assert draw_regdb(tmp_path, workers=1, **REGDB) == 24
    assert check("regdb", tmp_path).defects.empty
    halves = set()
    for trial in range(1, 11):
        table = read_regdb(tmp_path, trial)
        assert table.groupby(["split", "modality"]).size().tolist() == [6, 6, 6, 6]
        assert table.groupby("split").identity.nunique().tolist() == [3, 3]
        halves.add(tuple(table[table.split == "train"].identity.unique()))
    assert len(halves) > 3


def test_pictures_have_the_size_that_was_asked_for_and_infrared_has_no_colour(tmp_path):
    draw_sysu(tmp_path, workers=1, **SYSU)
    for row in read_sysu(tmp_path).itertuples():
        with Image.open(tmp_path / row.path) as image:
            assert (image.mode, image.size) == ("RGB", (16, 40))
            pixels = np.asarray(image, int)
        assert bool(np.ptp(pixels, axis=2).any()) == (row.modality == "visible")


# Fine detail of infrared images over that of visible ones, of 60 crops of SYSU-MM01 (the example
# figure of its authors' README): cameras 3 and 6, 0.34, over 1, 2, 4 and 5, 0.48
INFRARED_DETAIL = 0.71


def fine_detail(folder: Path) -> float:
    """The Laplacian of the luminance, divided by the contrast (both as standard deviations), mean
    over all images below ``folder``. All are resized to 96 x 48, so that sets can be compared."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".jpg", ".bmp")]
    gray = np.stack([decode(p, 96, 48) for p in paths]) @ np.array([0.299, 0.587, 0.114])
    middle = gray[:, 1:-1, 1:-1]
    up, down, left, right = (
        gray[:, :-2, 1:-1],
        gray[:, 2:, 1:-1],
        gray[:, 1:-1, :-2],
        gray[:, 1:-1, 2:],
    )
    laplacian = up + down + left + right - 4 * middle
    return (laplacian.std(axis=(1, 2)) / gray.std(axis=(1, 2))).mean()


def infrared_detail(root: Path) -> float:
    """``INFRARED_DETAIL`` of a set in SYSU-MM01's layout: the mean over cameras on both sides."""
    infrared, visible = (
        np.mean([fine_detail(root / f"cam{c}") for c in cameras])
        for cameras in ((3, 6), (1, 2, 4, 5))
    )
    return infrared / visible


def test_real_infrared_has_less_fine_detail(real_data):
    assert infrared_detail(real_data / "sysu_mm01_sample") == pytest.approx(
        INFRARED_DETAIL, abs=0.01
    )


def test_drawn_infrared_lacks_as_much_fine_detail_and_thermal_more(tmp_path):
    people = {"train": 9, "test": 1, "images": 2, "workers": 1}
    draw_sysu(tmp_path / "sysu", val=0, **people)
    assert infrared_detail(tmp_path / "sysu") == pytest.approx(INFRARED_DETAIL, abs=0.05)
    for camera in (3, 6):
        rooms = (1, 2) if camera == 3 else (4, 5)
        visible = min(fine_detail(tmp_path / f"sysu/cam{c}") for c in rooms)
        assert fine_detail(tmp_path / f"sysu/cam{camera}") < 0.85 * visible
    draw_regdb(tmp_path / "regdb", **people)
    visible, thermal = (fine_detail(tmp_path / "regdb" / name) for name in ("Visible", "Thermal"))
    assert thermal < 0.6 * visible


@LAYOUTS
def test_an_interrupted_drawing_is_completed(tmp_path, monkeypatch, draw, settings):
    draw(tmp_path / "whole", workers=1, **settings)
    expected = hashes(tmp_path / "whole")
    render, left = paperdolls.render, iter(range(9))

    def interrupted(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return render(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(paperdolls, "render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            draw(tmp_path / "set", workers=1, **settings)
    begun = hashes(tmp_path / "set")
    assert 0 < len(begun) < len(expected) and paperdolls.MARKER not in begun
    picture = next(name for name in begun if name.endswith((".jpg", ".bmp")))
    (tmp_path / "set" / picture).write_bytes(b"half")
    with pytest.raises(DatasetError, match="other settings"):  # its pictures would mix with ours
        draw(tmp_path / "set", workers=1, seed=1, **settings)

    assert draw(tmp_path / "set", workers=1, **settings) > 0
    assert hashes(tmp_path / "set") == expected
    assert paperdolls.MARKER in expected and paperdolls.STARTED not in expected
    assert draw(tmp_path / "set", workers=1, **settings) == 0


@LAYOUTS
def test_other_settings_are_refused(tmp_path, draw, settings):
    draw(tmp_path, workers=1, **settings)
    before = hashes(tmp_path)
    for name in [*settings, "seed"]:
        changed = settings | {name: settings.get(name, 0) + 1}
        with pytest.raises(DatasetError, match=f"other settings.*{name}.*delete") as caught:
            draw(tmp_path, workers=1, **changed)
        assert f'"{name}": {changed[name]}' in str(caught.value)
    with pytest.raises(DatasetError, match="other settings"):
        draw_regdb(tmp_path) if draw is draw_sysu else draw_sysu(tmp_path)
    assert draw(tmp_path, workers=7, **settings) == 0  # no property of the set
    assert hashes(tmp_path) == before


@pytest.mark.parametrize("draw", [draw_sysu, draw_regdb])
def test_a_real_dataset_is_never_drawn_over(sysu, draw):
    before = hashes(sysu)
    with pytest.raises(DatasetError, match="not PaperDolls"):
        draw(sysu)
    assert hashes(sysu) == before


@pytest.mark.parametrize(
    "draw, setting",
    [
        *((draw_sysu, {name: 0}) for name in ("train", "test", "images", "height", "workers")),
        *((draw_sysu, {name: -1}) for name in ("seed", "val")),
        (draw_regdb, {"train": 0}),
    ],
)
def test_settings_that_are_too_small(tmp_path, draw, setting):
    (name,) = setting
    with pytest.raises(DatasetError, match=f"{name}: found .*expected .* or more"):
        draw(tmp_path / "set", **setting)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting", [{"train": 9_854}, {"images": 10_000}], ids=str)
def test_more_than_four_digits_can_number_is_refused(tmp_path, setting):
    with pytest.raises(DatasetError, match="expected at most 9999 of both"):
        draw_sysu(tmp_path / "set", **setting)
    assert not list(tmp_path.iterdir())


def test_two_processes_at_once(tmp_path):
    command = [sys.executable, "-m", "reid_core", "data", "draw", "paperdolls-regdb"]
    command += [
        str(tmp_path / "set"),
        "--train",
        "20",
        "--test",
        "20",
        "--images",
        "2",
        "--workers",
        "1",
    ]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=60)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert sum("already complete" in line for line in said) == 1
    assert check("regdb", tmp_path / "set").defects.empty


def save_inventory(folder: Path, counts: dict[int, dict[int, int]], train, test) -> None:
    """SYSU-MM01's three protocol files: ``counts`` are pictures by identity and camera."""
    folder.mkdir()
    cells = np.empty((6, 1), object)
    for camera in range(1, 7):
        people = np.empty((max(counts), 1), object)
        for identity in range(1, max(counts) + 1):
            n = counts.get(identity, {}).get(camera, 0)
            people[identity - 1, 0] = np.tile(np.arange(1, n + 1, dtype=np.uint16), (10, 1))
        cells[camera - 1, 0] = people
    savemat(folder / "rand_perm_cam.mat", {"rand_perm_cam": cells})
    savemat(folder / "train_id.mat", {"id": np.array([train], np.uint16)})
    savemat(folder / "test_id.mat", {"id": np.array([test], np.uint16)})


# 3 is in neither list and seen in both modalities: validation. 4 and 6 lack one, 5 does not exist.
INVENTORY = {1: {1: 3, 3: 1}, 2: {4: 2, 6: 2}, 3: {2: 1, 6: 4}, 4: {1: 2, 5: 1}, 6: {3: 1}}


def test_inventory_is_drawn_exactly(tmp_path):
    save_inventory(tmp_path / "lists", INVENTORY, train=[1], test=[2])
    size = {"height": 40, "width": 16, "workers": 1}
    assert draw_sysu(tmp_path / "set", inventory=tmp_path / "lists", **size) == 17
    drawn = {}
    for path in (tmp_path / "set").glob("cam*/*/*.jpg"):
        identity, camera = int(path.parent.name), int(path.parts[-3].removeprefix("cam"))
        counts = drawn.setdefault(identity, {})
        counts[camera] = counts.get(camera, 0) + 1
    assert drawn == INVENTORY
    table = read_sysu(tmp_path / "set")
    assert len(table) == 13
    splits = table.groupby("split").identity.unique()
    assert {split: ids.tolist() for split, ids in splits.items()} == {
        "train": [1],
        "test": [2],
        "val": [3],
    }
    assert (
        check("sysu", tmp_path / "set")
        .counts.set_index("what")
        .found["images of identities in no list"]
        == 4
    )

    save_inventory(tmp_path / "others", INVENTORY, train=[2], test=[1])
    with pytest.raises(DatasetError, match="other settings"):
        draw_sysu(tmp_path / "set", inventory=tmp_path / "others", **size)


def test_real_inventory(real_data):
    inventory, splits = real_inventory(real_data / "sysu_mm01_protocol")
    assert sum(sum(seen.values()) for seen in inventory.values()) == 45863
    assert {split: len(set(ids)) for split, ids in splits.items()} == {
        "train": 296,
        "val": 99,
        "test": 96,
    }

    def images(splits_: tuple[str, ...], cameras: tuple[int, ...]) -> int:
        ids = [identity for split in splits_ for identity in splits[split]]
        return sum(inventory[i].get(camera, 0) for i in ids for camera in cameras)

    visible, infrared = (1, 2, 4, 5), (3, 6)
    assert images(("train", "val"), visible) == 22258
    assert images(("train", "val"), infrared) == 11909
    assert images(("test",), visible) == 6775
    assert images(("test",), infrared) == 3803


def test_missing_or_damaged_inventory(tmp_path):
    save_inventory(tmp_path / "lists", INVENTORY, train=[1], test=[2])
    (tmp_path / "lists/test_id.mat").write_bytes(b"not a mat")
    with pytest.raises(DatasetError, match=r"test_id.mat: cannot be read .*key 'id'"):
        draw_sysu(tmp_path / "set", inventory=tmp_path / "lists")
    with pytest.raises(DatasetError, match=r"rand_perm_cam.mat: cannot be read .*No such file"):
        draw_sysu(tmp_path / "set", inventory=tmp_path / "nowhere")
    assert not (tmp_path / "set").exists()


def test_command_draws_by_default_into_the_data_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REID_DATA", str(tmp_path))
    command = "data draw paperdolls-sysu --train 2 --val 1 --test 1 --images 1 --seed 5"
    command += " --height 40 --width 16 --workers 1"
    assert main(command.split()) == 0
    assert "18 images in" in capsys.readouterr().out
    assert len(read_sysu(tmp_path / "paperdolls-sysu")) == 18
    assert main(command.split()) == 0
    assert "already complete" in capsys.readouterr().out
    counts = {"train": 2, "val": 1, "test": 1, "images": 1}
    assert draw_sysu(tmp_path / "paperdolls-sysu", seed=5, height=40, width=16, **counts) == 0


@pytest.mark.parametrize("name", ["paperdolls-full", "paperdolls-sysu"])
def test_command_draws_an_inventory(tmp_path, name):
    save_inventory(tmp_path / "lists", INVENTORY, train=[1], test=[2])
    command = ["data", "draw", name, str(tmp_path / "set"), "--height", "40", "--width", "16"]
    command += ["--workers", "1", "--inventory", str(tmp_path / "lists")]
    assert main(command) == 0
    assert len(read_sysu(tmp_path / "set")) == 13


@pytest.mark.parametrize(
    "options, said",
    [
        ("paperdolls-full", "paperdolls-full needs"),
        ("paperdolls-full --inventory lists --train 3", "--train: not for this set"),
        ("paperdolls-sysu --inventory lists --images 3", "--images: not for this set"),
        ("paperdolls-regdb --val 3 --inventory x", "--val, --inventory: not for this set"),
        ("paperdolls-regdb --inventory lists", "--inventory: not for this set"),
        ("paperdolls-regdb --workers 0", "workers: found 0"),
    ],
)
def test_command_says_in_one_line_what_it_cannot_draw(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REID_DATA", str(tmp_path))
    assert main(["data", "draw", *options.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())

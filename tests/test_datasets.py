"""Datasets by name."""

from typing import get_args

import pytest

from reid_core.config import Dataset
from reid_core.data import DATASETS, DatasetError
from reid_core.data.datasets import NAMES, layout, locate, obtain, read
from reid_core.data.paperdolls import draw_regdb, draw_sysu


def test_layouts():
    assert {name: layout(name) for name in NAMES} == {
        "paperdolls-sysu": "sysu",
        "paperdolls-regdb": "regdb",
        "paperdolls-full": "sysu",
        "paperdolls-tiny": "sysu",
        "paperdolls-tiny-regdb": "regdb",
        "sysu": "sysu",
        "regdb": "regdb",
        "llcm": "llcm",
    }
    assert set(get_args(Dataset)) == set(NAMES)  # what a run may name
    with pytest.raises(DatasetError, match=r"'market'.*paperdolls-sysu.*llcm"):
        layout("market")


@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm"])
def test_real_datasets_are_read_by_their_readers(request, name):
    root = request.getfixturevalue(name)
    assert read(name, root).equals(DATASETS[name](root))


def test_regdb_trials(regdb):
    for trial in (1, 2):
        assert read("regdb", regdb, trial).equals(DATASETS["regdb"](regdb, trial))
    assert not read("regdb", regdb, 1).equals(read("regdb", regdb, 2))


def test_drawn_sets_are_read_in_their_layout(tmp_path):
    draw_sysu(tmp_path / "s", train=2, val=0, test=1, images=1, height=40, width=16, workers=1)
    draw_regdb(tmp_path / "r", train=1, test=1, images=1, height=40, width=16, workers=1)
    assert read("paperdolls-sysu", tmp_path / "s").equals(DATASETS["sysu"](tmp_path / "s"))
    assert read("paperdolls-full", tmp_path / "s").equals(DATASETS["sysu"](tmp_path / "s"))
    for trial in (1, 5):
        drawn = DATASETS["regdb"](tmp_path / "r", trial)
        assert read("paperdolls-regdb", tmp_path / "r", trial).equals(drawn)


def test_locate(tmp_path, monkeypatch):
    monkeypatch.setenv("REID_DATA", str(tmp_path))
    for name, advice in (("regdb", "README"), ("paperdolls-full", "data draw paperdolls-full")):
        with pytest.raises(DatasetError, match=f"{name}.*no such folder.*{advice}"):
            locate(name)
        (tmp_path / name).mkdir()
        assert locate(name) == tmp_path / name
    assert locate("sysu", tmp_path) == tmp_path
    with pytest.raises(DatasetError, match="elsewhere: no such folder"):
        locate("regdb", tmp_path / "elsewhere")


def test_obtain_draws_what_is_missing_and_refuses_what_was_drawn_otherwise(tmp_path, monkeypatch):
    """A set of an earlier version of the project must not pass for today's."""
    monkeypatch.setenv("REID_DATA", str(tmp_path))
    root = obtain("paperdolls-tiny")
    assert root == tmp_path / "paperdolls-tiny" and obtain("paperdolls-tiny") == root
    marker = root / "paperdolls.json"
    marker.write_text(marker.read_text().replace('"test": 10', '"test": 11'))
    with pytest.raises(
        DatasetError, match=r"paperdolls\.json: a PaperDolls set with other settings"
    ):
        obtain("paperdolls-tiny")
    assert obtain("paperdolls-tiny", root) == root, "a folder that is named is taken as it is"

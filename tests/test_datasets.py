"""Datasets by name."""

from typing import get_args

import pytest

from reid_core.config import Dataset
from reid_core.data import DATASETS, DatasetError
from reid_core.data.datasets import NAMES, layout, locate, read
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

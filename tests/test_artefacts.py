"""The papers' tables and figures as data: what they stand on, and that they draw."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

from reid_core import reproduce
from reid_core.artefacts import artefacts
from reid_core.drawings import Place
from reid_core.methods import configure
from reid_core.tables import published

NOWHERE = Place("smoke", "paperdolls-tiny", "paperdolls-tiny-regdb")  # no run of it is finished


@pytest.mark.parametrize("artefact", artefacts().values(), ids=lambda a: a.name)
def test_runs_can_be_configured(artefact):
    assert artefact.runs
    for name, kind in artefact.runs:
        assert configure(*name.split("/"), "paper", dataset=kind).method == name.split("/")[0]


def test_runs_of_a_table_are_its_rows():
    runs = artefacts()["mrda-T5"].runs
    assert set(runs) == {
        ("baselines/zero-padding", "regdb"),
        ("baselines/agw", "regdb"),
        ("mrda/mrm-dam", "regdb"),
    }
    rows = published("mrda").query("table == 'T5'")
    assert set(rows["variant"]) - {""} == {name for name, _ in runs}


def test_a_point_that_is_the_full_method_is_not_trained_again():
    runs = artefacts()["mutual_prediction-F3"].runs
    assert ("mutual_prediction/fgfl-cmimpl", "sysu") in runs
    assert ("mutual_prediction/alpha-12.2", "sysu") not in runs
    assert ("mutual_prediction/alpha-12.2", "regdb") in runs, "its alpha is 35"
    assert len(runs) == 2 * (6 + 7 - 1), "13 points of each dataset, of which two are one run"


@pytest.mark.parametrize("artefact", artefacts().values(), ids=lambda a: a.name)
def test_draws_dashes_where_nothing_is_finished(artefact, tmp_path, monkeypatch):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    drawn = artefact.draw(NOWHERE)
    assert all(isinstance(thing, pd.DataFrame | Figure) for thing in drawn.values())
    tables = [t for name, t in drawn.items() if "_steps_" not in name and "_points" not in name]
    for table in (t for t in tables if isinstance(t, pd.DataFrame)):
        assert set(table.xs("measured", axis=1, level=2).stack([0, 1]).unique()) == {"—"}


def test_saves_what_it_draws(tmp_path, monkeypatch):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    paths = artefacts()["mrda-T2"].save(NOWHERE)
    folder = tmp_path / "runs/smoke/figures/mrda"
    assert paths["T2"] == folder / "T2.png"
    assert (folder / "T2.svg").is_file()
    lines = (folder / "T2_paperdolls-tiny.csv").read_text().splitlines()
    assert len(lines) == 3 + 4, "three lines of headings and a row a variant"


@pytest.mark.parametrize("place", [Place("smoke", "x", ""), Place("smoke", "", "x")])
def test_one_dataset_alone_draws_what_is_of_it(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    of_it = [a for a in artefacts().values() if any(place.dataset(kind) for _, kind in a.runs)]
    others = [a for a in artefacts().values() if a not in of_it]
    assert of_it and others
    assert reproduce.draw_all(others, place) == {}
    assert capsys.readouterr().out == ""
    assert reproduce.draw_all([of_it[0]], place) == {}
    assert capsys.readouterr().out.startswith(of_it[0].name)


def test_a_dataset_can_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    drawn = artefacts()["multi_granularity-T1"].draw(Place("smoke", "", "paperdolls-tiny-regdb"))
    assert list(drawn) == ["T1_paperdolls-tiny-regdb", "T1_steps_paperdolls-tiny-regdb", "T1"]

"""The papers' tables and figures as data: what they stand on, and that they draw."""

import os

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from reid_core import drawings, records, reproduce
from reid_core.artefacts import artefacts
from reid_core.drawings import Place
from reid_core.methods import configure
from reid_core.tables import MODES, published

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


BARS = {
    "mutual_prediction-T4": {
        "baseline": "baseline",
        "+ FGFL": "fgfl",
        "+ FGFL\n+ CMIMPL": "fgfl-cmimpl",
    },
    "crossvit_csa-T3": {
        "base": "baseline",
        "TA": "ta",
        "Cross\nViT": "crossvit",
        "CSA": "csa",
        "TA\nCross\nViT": "ta-crossvit",
        "TA\nCross\nViT\nCSA": "ta-crossvit-csa",
        "all\nfour": "ta-crossvit-csa-wt",
    },
    "crossvit_csa-T4": {
        "center": "center",
        "batch-hard": "hard-triplet",
        "weighted": "ta-crossvit-csa-wt",
    },
    "fprnet-T5": {
        "no\ndomains": "without-domains",
        "no\nIR-RGB": "without-joint",
        "no\nfusion": "without-fusion",
        "no\nupsampling": "without-upsampling",
    },
    "fprnet-T6": {
        "single\nSVD": "single-svd",
        "double\nSVD": "double-svd",
        "LeakyReLU": "both-leaky-relu",
        "ReLU": "both-relu",
    },
    "fprnet-F4": {
        "One-\nstream": "one-stream",
        "Two-\nstream": "two-stream",
        "Zero-\npad": "zero-padding",
        "ResNet": "resnet",
        "SVDnet": "svdnet",
        "FPRnet": "fprnet",
        "+ SRCNN": "fprnet-srcnn",
    },
    "multi_granularity-T1": {
        "baseline": "baseline",
        "+ MGSA": "mgsa",
        "+ MSAM": "msam",
        "+ MGSA\n+ MSAM": "mgsa-msam",
    },
    "mrda-T1": {"DAM": "mrm-dam", "BAM": "bam", "CBAM": "cbam", "IWPAM": "iwpam"},
    "mrda-T2": {"baseline": "baseline", "+ MRM": "mrm", "+ DAM": "dam", "+ both": "mrm-dam"},
}


def test_every_bar_has_its_own_label(monkeypatch):
    """A variant is measured here as its place among the labels, and drawn beside that label."""
    monkeypatch.setattr(
        drawings.figures, "ablation_bars", lambda panels, labels, _: (panels, labels)
    )
    places = [
        (place, mode) for place, kind in (("d", "sysu"), ("r", "regdb")) for mode in MODES[kind]
    ]
    everywhere = pd.DataFrame(places, columns=["dataset", "mode"])
    given = {n: getattr(a.drawing, "keywords", {}) for n, a in artefacts().items()}
    assert {name for name, words in given.items() if "labels" in words} == BARS.keys()
    for name, expected in BARS.items():
        artefact, variants = artefacts()[name], list(expected.values())
        ours = [(v, variants.index(v.split("/")[1]) / 100) for v in dict(artefact.runs)]
        runs = pd.DataFrame(ours, columns=["variant", "rank1"]).assign(rank1_std=0.0)
        runs = runs.merge(everywhere, "cross")
        monkeypatch.setattr(drawings, "measured", lambda *_, runs=runs: runs)
        table = given[name].get("table", artefact.number)
        drawn = drawings.bars(Place("demo", "d", "r"), artefact, table, given[name]["labels"])
        panels, labels = drawn[artefact.number]
        assert list(labels) == list(expected), name
        for _, here, _ in panels.values():
            assert here.round().tolist() == list(range(len(expected))), name


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


@pytest.fixture
def figure_8(tmp_path, monkeypatch):
    """mrda-F8's two runs, as if both were finished, and what notebook 30 was asked."""
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    asked = []

    def execute(notebook, executed, parameters):
        asked.append((parameters["method"], parameters["baseline"]))
        executed.parent.mkdir(parents=True, exist_ok=True)
        for name in ("tsne", "distances", "gradcam", "top10_beside"):
            (executed.parent / f"{name}.png").touch()

    monkeypatch.setattr(drawings, "execute", execute)
    names = [name for name, _ in artefacts()["mrda-F8"].runs]
    runs = [configure(*n.split("/"), "smoke", dataset="paperdolls-tiny") for n in names]
    for run in runs:
        folder = records.open_folder(run, "abc", torch.device("cpu"))
        records.finish(run, [])
        os.utime(folder / "metrics.json", (0, 0))
    return runs, asked


def test_pictures_show_the_two_runs_of_the_figure(figure_8):
    runs, asked = figure_8
    other = records.figures_folder(runs[0]) / "gradcam.png"  # beside whom, nobody can tell
    other.parent.mkdir()
    other.touch()
    drawn = artefacts()["mrda-F8"].draw(NOWHERE)
    assert asked == [("mrda/mrm-dam", "mrda/baseline")]
    assert all("beside_mrda_baseline" in path.as_posix() for path in drawn.values())


def test_pictures_are_drawn_once_and_anew_when_a_run_was_measured_anew(figure_8):
    runs, asked = figure_8
    for _ in range(2):
        assert artefacts()["mrda-F8"].draw(NOWHERE)
    assert len(asked) == 1
    os.utime(records.folder_of(runs[1]) / "metrics.json", (2**32, 2**32))
    assert artefacts()["mrda-F8"].draw(NOWHERE)
    assert len(asked) == 2


def test_curves_of_runs_with_other_settings_are_not_averaged(tmp_path, monkeypatch):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    monkeypatch.setattr(records, "REPORTED", tmp_path / "none")
    result = {"protocol": "sysu", "mode": "all", "gallery": "agw", "shots": 1, "cmc": [0.5] * 20}
    for seed, overrides in ((0, {}), (1, {"steps": 7})):
        at = {"dataset": "paperdolls-tiny", "seed": seed}
        run = configure("fprnet", "fprnet", "smoke", overrides, **at)
        records.open_folder(run, "abc", torch.device("cpu"))
        records.finish(run, [result])
        if seed == 0:
            assert artefacts()["fprnet-F5"].draw(NOWHERE)
    with pytest.raises(records.RunError, match="steps differ"):
        artefacts()["fprnet-F5"].draw(NOWHERE)


def test_a_run_without_its_curve_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    monkeypatch.setattr(records, "REPORTED", tmp_path / "none")
    run = configure("fprnet", "fprnet", "smoke", dataset="paperdolls-tiny")
    folder = records.open_folder(run, "abc", torch.device("cpu"))
    (folder / "history.csv").write_text("epoch,total,seconds\n1,2.5,0.1\n")
    records.finish(run, [])
    assert artefacts()["fprnet-F6"].draw(NOWHERE) == {}
    assert "fprnet/fprnet was trained without measuring its epochs" in capsys.readouterr().out


def test_claims_are_of_what_the_artefact_shows():
    known = artefacts()
    of_one_trial = {name for name, artefact in known.items() if artefact.trial == 1}
    assert of_one_trial == {"mutual_prediction-T4", "mutual_prediction-F3"}
    assert set(known["mrda-F6"].claim["mode"]) == {"all"}
    assert set(known["fprnet-F4"].claim["metric"]) == {"rank1"}
    assert "mAP" not in set(known["fprnet-F5"].claim["metric"]), "it shows curves of ranks"
    for name in ("crossvit_csa-T3", "mrda-T2", "multi_granularity-T1"):
        assert known[name].claim["over"].nunique() == 1, name

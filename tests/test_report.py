"""The README and the summary say what the committed records say, and nothing else."""

import json
from pathlib import Path

import pandas as pd
import pytest

from reid_core import records, report
from reid_core.__main__ import main
from reid_core.paths import REPORTED, ROOT


def test_readme_and_summary_follow_the_records() -> None:
    summarised = report.summary()
    assert len(summarised), "no records are committed"
    written = pd.read_csv(REPORTED / "summary.csv")
    pd.testing.assert_frame_equal(written, summarised.round(4), check_dtype=False, atol=1e-9)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"<!-- {name}:start -->" in readme for name in ("demo", "untrained"))
    assert report.filled(readme, report.readme_tables(summarised)) == readme, "run `report`"


def test_only_the_tables_whose_markers_are_there_are_filled_in() -> None:
    page = "a\n<!-- demo:start -->\n{}\n<!-- demo:end -->\nb\n"
    tables = {"demo": "new", "gpu": "not shown"}
    assert report.filled(page.format("| old |\n| old |"), tables) == page.format("new")


def test_the_committed_verdicts_follow_the_records() -> None:
    for name, expected in report.agreements().items():
        written = pd.read_csv(REPORTED / f"{name}.csv", index_col=0, keep_default_na=False)
        text = expected.astype(object).where(expected.notna(), "").astype(str)
        text = text.set_index("artefact") if "artefact" in text else text
        assert written.astype(str).to_csv() == text.to_csv(), f"run `report`: {name}.csv is old"


def test_every_record_was_measured_on_a_clean_commit_and_a_known_dataset() -> None:
    for path in (REPORTED / "runs").rglob("metrics.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert not content["provenance"]["commit"].endswith("dirty"), path
        assert set(records.SMALL_FILES) <= {p.name for p in path.parent.iterdir()}
        history = pd.read_csv(path.parent / "history.csv")
        assert len(history) == content["config"]["epochs"]


def test_benchmarks_were_measured_on_clean_commits() -> None:
    for path in REPORTED.glob("benchmarks*.csv"):
        assert not pd.read_csv(path)["commit"].str.endswith("dirty").any(), path


def test_a_profile_that_is_none_publishes_nothing(monkeypatch, capsys) -> None:
    monkeypatch.setattr(report, "publish_finished", None)
    assert main(["report", "--profile", "*"]) == 2
    assert "profile: found '*', expected one of" in capsys.readouterr().err


def test_summary_is_the_mean_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "REPORTED", tmp_path)
    config = {"profile": "demo", "dataset": "d", "method": "m", "variant": "v", "trial": 1}
    config |= {"model": {}}
    result = dict.fromkeys(("rank5", "rank10", "rank20", "mAP", "mINP"), 0.5)
    result |= {"protocol": "sysu", "mode": "all", "gallery": "agw", "shots": 1}
    for seed, rank1 in ((0, 0.1), (1, 0.3)):
        folder = tmp_path / f"runs/demo/d/m/v/seed{seed}"
        folder.mkdir(parents=True)
        content = {"config": config | {"seed": seed}, "data": "", "results": []}
        content["results"].append(result | {"rank1": rank1})
        (folder / "metrics.json").write_text(json.dumps(content))
    summarised = report.summary()
    row = summarised.iloc[0]
    changed = config | {"seed": 2, "lr": 1.0}
    content["config"]["lr"] = 0.1
    (folder / "metrics.json").write_text(json.dumps(content))
    assert report.summary()["runs"].tolist() == [2], (
        "seed 0 is from before lr was a setting: its default"
    )
    folder = tmp_path / "runs/demo/d/m/v/seed2"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(content | {"config": changed}))
    with pytest.raises(records.RunError, match=r"d/m/v: seed 2.* lr differ"):
        report.summary()
    assert (row["runs"], row["rank1"]) == (2, pytest.approx(0.2))
    assert row["rank1_std"] == pytest.approx(0.1 * 2**0.5)
    assert report.readme_table(summarised, "demo").count("\n") == 1, (
        "a variant the README does not show"
    )
    monkeypatch.setattr(report, "MAIN", ("m/v",))
    assert "| d | all | m/v | 2 | 20.0 ± 14.1 | 50.0 ± 0.0 |" in report.readme_table(
        summarised, "demo"
    )

"""A run's folder: what binds it, when it is finished, what of it is published; and the table of
all that are finished."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from reid_core import records, results
from reid_core.config import RunConfig
from reid_core.methods import configure
from reid_core.paths import ROOT
from reid_core.records import RunError
from reid_core.retrieval.metrics import METRICS

CPU = torch.device("cpu")
RESULT = {"protocol": "sysu", "mode": "all", "rank1": 0.25}


@pytest.fixture
def run(monkeypatch, tmp_path) -> RunConfig:
    """A run whose local and committed results lie in folders of this test."""
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "local"))
    monkeypatch.setattr(records, "REPORTED", tmp_path / "reported")
    return configure("baselines", "two-stream", "smoke")


def begin(run: RunConfig, data: str = "abc") -> Path:
    """A run's folder after its first checkpoint."""
    folder = records.open_folder(run, data, CPU)
    (folder / "checkpoint.pt").touch()
    return folder


def complete(run: RunConfig, **result) -> Path:
    folder = begin(run)
    (folder / "history.csv").write_text("epoch,total,seconds\n1,2.5,0.1\n")
    records.finish(run, [RESULT | result], train_seconds=0.1)
    return folder


def test_folder_and_its_settings(run, tmp_path):
    folder = begin(run)
    assert folder == tmp_path / "local/runs/smoke/paperdolls-sysu/baselines/two-stream/seed0"
    params = json.loads((folder / "params.json").read_text())
    assert params["config"] == run.to_dict() and params["data"] == "abc"
    assert params["provenance"].keys() == {"commit", "versions", "device", "bfloat16", "processes"}
    assert params["provenance"]["versions"]["torch"] == torch.__version__.split("+")[0]
    before = (folder / "params.json").stat().st_mtime_ns
    assert begin(run) == folder
    assert (folder / "params.json").stat().st_mtime_ns == before


def test_nothing_published_holds_a_path_of_this_machine(run, tmp_path):
    folder = complete(run)
    for name in ("params.json", "metrics.json"):
        text = (folder / name).read_text()
        for path in (Path.home(), ROOT, tmp_path, Path.cwd()):
            assert str(path) not in text.replace("//", "")

        def strings(value):
            if isinstance(value, dict):
                return [s for v in value.values() for s in strings(v)]
            return [value] if isinstance(value, str) else []

        assert not [s for s in strings(json.loads(text)) if s.startswith(("/", "~"))]


def test_other_settings_are_refused_and_named(run):
    begin(run)
    other = configure("baselines", "two-stream", "smoke", {"lr": 0.2, "margin": 0.5})
    with pytest.raises(RunError) as error:
        records.open_folder(other, "abc", CPU)
    assert "lr is 0.1 there, 0.2 asked; margin is 0.3 there, 0.5 asked." in str(error.value)
    assert "height" not in str(error.value)


def test_a_run_from_before_a_setting_existed_had_its_default(run):
    folder = begin(run)
    params = json.loads((folder / "params.json").read_text())
    del params["config"]["superres"]
    (folder / "params.json").write_text(json.dumps(params))
    assert begin(run) == folder
    other = configure("baselines", "two-stream", "smoke", {"superres": True})
    with pytest.raises(RunError, match="superres is False there, True asked"):
        records.open_folder(other, "abc", CPU)


def test_other_data_are_refused_and_named(run):
    begin(run)
    with pytest.raises(RunError, match=r"data is 'abc' there, 'xyz' asked\. .*delete the folder"):
        records.open_folder(run, "xyz", CPU)


def test_settings_bind_only_from_the_first_checkpoint_on(run):
    """Without a weights file nothing can start, and choosing another way must then be possible."""
    records.open_folder(run, "abc", CPU)
    other = configure("baselines", "two-stream", "smoke", {"lr": 0.2})
    folder = records.open_folder(other, "xyz", CPU)
    assert json.loads((folder / "params.json").read_text())["config"]["lr"] == 0.2


def test_killed_while_the_folder_was_opened(run):
    """What a killed write leaves is a file of another name; the next start does not see it."""
    folder = records.folder_of(run)
    folder.mkdir(parents=True)
    (folder / ".params.json.abcd").write_text('{"config": {"me')
    assert begin(run) == folder
    assert records.read_json(folder / "params.json")["config"] == run.to_dict()


@pytest.mark.parametrize("content", [None, "", '{"config": {', "[]", "{}", "\0\0", b"\xff\xfe"])
def test_damaged_params_are_refused(run, content):
    folder = begin(run)
    if content is None:
        (folder / "params.json").unlink()
    else:
        (folder / "params.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    with pytest.raises(
        RunError, match=r"params\.json: missing or damaged .*Delete the run's folder"
    ):
        records.open_folder(run, "abc", CPU)


def test_finished_on_other_data_is_refused(run):
    complete(run)
    assert records.finished(run, "abc")["data"] == "abc"
    with pytest.raises(RunError, match="data is 'abc' there, 'def' asked"):
        records.finished(run, "def")


def test_finished(run):
    begin(run)
    assert records.finished(run) is None
    complete(run)
    content = records.finished(run)
    assert content["results"] == [RESULT] and content["train_seconds"] == 0.1
    assert content["config"] == run.to_dict() and content["data"] == "abc"
    other = configure("baselines", "two-stream", "smoke", {"epochs": 3})
    with pytest.raises(RunError, match="epochs is 2 there, 3 asked"):
        records.finished(other)


def test_a_finished_run_binds_without_its_checkpoint(run):
    (complete(run) / "checkpoint.pt").unlink()
    other = configure("baselines", "two-stream", "smoke", {"lr": 0.2})
    with pytest.raises(RunError, match=r"lr is 0\.1 there, 0\.2 asked"):
        records.open_folder(other, "abc", CPU)


def test_a_committed_record_is_no_finished_run(run):
    folder = complete(run)
    records.publish(folder)
    (folder / "metrics.json").unlink()
    assert records.finished(run) is None


def test_publish_copies_the_small_files_only(run, tmp_path):
    folder = complete(run)
    target = records.publish(folder)
    assert target.relative_to(tmp_path / "reported").as_posix() == f"runs/{run.folder_name()}"
    assert sorted(p.name for p in target.iterdir()) == sorted(records.SMALL_FILES)
    for name in records.SMALL_FILES:
        assert (target / name).read_bytes() == (folder / name).read_bytes()


def test_publish_refuses_an_unfinished_run(run, tmp_path):
    with pytest.raises(RunError, match="not finished"):
        records.publish(begin(run))
    assert not (tmp_path / "reported").exists()


def test_table_prefers_local_runs_and_says_where_each_row_is_from(run):
    here = [
        configure("baselines", v, "smoke", seed=s)
        for v, s in (("two-stream", 0), ("two-stream", 1))
    ]
    for one, rank1 in zip(here, (0.1, 0.2), strict=True):
        records.publish(complete(one, rank1=rank1))
    (records.folder_of(here[1]) / "metrics.json").unlink()
    complete(here[0], rank1=0.3)
    found = results.table()
    columns = ["profile", "variant", "seed", "trial", "mode", "rank1", "source"]
    assert found[columns].to_numpy().tolist() == [
        ["smoke", "two-stream", 0, 1, "all", 0.3, "run"],
        ["smoke", "two-stream", 1, 1, "all", 0.2, "record"],
    ]
    assert len(results.table("smoke")) == 2 and results.table("paper").empty


def test_own_settings_stand_for_a_variant_and_of_two_there_is_no_mean(run):
    """A student's own trial of a method must not keep the other methods' tables from being read."""
    other, elsewhere = (
        configure("baselines", v, "smoke", {"steps": 7} if v == "two-stream" else {}, seed=1)
        for v in ("two-stream", "one-stream")
    )
    for recorded in (run, elsewhere):
        folder = complete(recorded)
        records.publish(folder)
        (folder / "metrics.json").unlink()
    complete(other)
    found = results.table()
    assert found[["variant", "source"]].to_numpy().tolist() == [
        ["one-stream", "record"],
        ["two-stream", "run"],
    ]
    assert len(results.table(records_only=True)) == 2
    (records.folder_of(run) / "checkpoint.pt").unlink()
    complete(run)
    mixed = results.table()
    mixed["protocol"], mixed["gallery"], mixed["shots"] = "sysu", "agw", 1
    with pytest.raises(RunError, match=r"two-stream: seed 1.*before it: steps differ"):
        results.averaged(mixed)


def test_two_runs_that_differ_are_refused_also_with_an_older_one_between(run):
    """The one between lacks the setting, and agrees with both."""
    settings = ['{"of_old": 1}', "{}", '{"of_old": 2}']
    variant = {"profile": "smoke", "dataset": "d", "method": "m", "variant": "v"}
    rows = [
        variant | {"seed": s, "trial": 1, "ill": False, "source": "run", "settings": x}
        for s, x in enumerate(settings)
    ]
    results.require_alike(pd.DataFrame(rows[:2]))
    with pytest.raises(RunError, match=r"m/v: seed 2.*of_old differ"):
        results.require_alike(pd.DataFrame(rows))


def test_runs_measured_on_validation_identities_are_no_results(run):
    records.publish(complete(run))
    tried = configure("baselines", "two-stream", "smoke", {"evaluate_on": "val"}, seed=1)
    complete(tried, rank1=0.9)
    assert results.table()[["seed", "rank1"]].to_numpy().tolist() == [[0, 0.25]]


@pytest.mark.parametrize(
    ("place", "setting", "value"),
    [(None, "superres", True), (None, "erase", 0.5), ("model", "non_local", "half")],
)
def test_a_setting_newer_than_a_record_tells_them_apart(place, setting, value, run):
    folder = complete(run)
    records.publish(folder)
    old = records.REPORTED / "runs" / folder.relative_to(records.results_folder() / "runs")
    content = json.loads((old / "metrics.json").read_text())
    del (content["config"][place] if place else content["config"])[setting]
    (old / "metrics.json").write_text(json.dumps(content))
    (folder / "metrics.json").unlink()
    complete(configure("baselines", "two-stream", "smoke", seed=2))
    assert results.table()["seed"].tolist() == [0, 2], "what it had no name for yet, it did not do"
    (folder.parent / "seed2/metrics.json").unlink()
    complete(configure("baselines", "two-stream", "smoke", {setting: value}, seed=3))
    assert results.table()["seed"].tolist() == [3]


def test_a_methods_setting_newer_than_a_record_had_its_datasets_value(run):
    """It may have another one on each dataset, as `alpha` has."""
    run = configure("mutual_prediction", "fgfl-cmimpl", "smoke", dataset="paperdolls-regdb")
    folder = complete(run)
    old = records.publish(folder) / "metrics.json"
    content = json.loads(old.read_text())
    del content["config"]["model"]["alpha"], content["config"]["evaluate_on"]
    old.write_text(json.dumps(content))
    (folder / "metrics.json").unlink()
    complete(replace(run, seed=2))
    assert results.table()["seed"].tolist() == [0, 2]


def test_history_is_this_machines_or_the_records(run):
    assert records.history(run) is None
    folder = complete(run)
    records.publish(folder)
    (folder / "history.csv").write_text("epoch,total,seconds\n1,7.5,0.1\n")
    assert records.history(run)["total"].tolist() == [7.5]
    (folder / "metrics.json").unlink()
    assert records.history(run)["total"].tolist() == [2.5]


def test_empty_table_has_its_columns(run):
    assert {"method", "variant", "source"} <= set(results.table().columns)


def test_a_changed_tree_is_told_from_its_commit(monkeypatch):
    asked = []

    def described(command, **_):
        asked.extend(command)
        return subprocess.CompletedProcess(command, 0, "abc-dirty\n")

    monkeypatch.setattr(subprocess, "run", described)
    assert records.provenance(CPU)["commit"] == "abc-dirty" and "--dirty" in asked


def test_provenance_outside_a_repository(monkeypatch):
    def absent(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    assert records.provenance(CPU)["commit"] == "unknown"


def test_data_bind_seeds_but_not_regdbs_trials(monkeypatch, tmp_path):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "local"))
    monkeypatch.setattr(records, "REPORTED", tmp_path / "reported")

    def keep(dataset, data, **of):
        run = configure("baselines", "two-stream", "smoke", dataset=dataset, **of)
        records.open_folder(run, data, torch.device("cpu"))
        result = dict.fromkeys(METRICS, 0.5)
        result |= {"protocol": "p", "mode": "m", "gallery": "g", "shots": 1}
        records.finish(run, [result], train_seconds=0.1)

    for trial in (1, 2):
        keep("paperdolls-regdb", f"data of trial {trial}", trial=trial)
    assert results.averaged(results.table())["runs"].tolist() == [2]
    keep("paperdolls-sysu", "abc")
    keep("paperdolls-sysu", "xyz", seed=1)
    with pytest.raises(records.RunError, match=r"seed 1.*data differ"):
        results.averaged(results.table())

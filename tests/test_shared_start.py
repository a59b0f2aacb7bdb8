"""Epochs that two runs have in common are trained once, and nobody can tell from the weights."""

import json
from pathlib import Path

import pytest
import torch
from test_resume import assert_same_run

from reid_core import distributed, records, shared_start, train
from reid_core.config import RunConfig
from reid_core.methods import configure
from reid_core.shared_start import SharedStart
from reid_core.train import fit


def sweep(variant: str, **overrides) -> RunConfig:
    few = {"steps": 2, "epochs": 3, "start_epoch": 2, "erase": 0.5}
    return configure("mutual_prediction", variant, "smoke", few | overrides)


@pytest.fixture(scope="module")
def siblings(tmp_path_factory, tiny_dolls):
    """The results folder in which the full method was trained first."""
    folder = tmp_path_factory.mktemp("siblings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REID_RESULTS", str(folder))
        fit(sweep("fgfl-cmimpl"), tiny_dolls)
    return folder


@pytest.mark.parametrize("variant", ["alpha-1", "both-terms", "beta-10-own"])
def test_a_shared_start_changes_no_bit(siblings, tmp_path, tiny_dolls, monkeypatch, variant):
    run, folders = sweep(variant), []
    for results in (siblings, tmp_path):
        monkeypatch.setenv("REID_RESULTS", str(results))
        folders.append(fit(run, tiny_dolls).folder)
    begun = [json.loads((f / "params.json").read_text()).get("begun_by") for f in folders]
    assert begun == [{"variant": "fgfl-cmimpl", "epochs": 2}, None]
    assert_same_run(*folders, measured=False)


def test_a_start_that_was_resumed_is_not_handed_on(tmp_path, tiny_dolls, monkeypatch):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))

    def stop(trained):
        if len(trained.history) == 2:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):  # who knows what is edited before it goes on
        fit(sweep("alpha-1"), tiny_dolls, after_epoch=stop)
    folder = fit(sweep("alpha-1"), tiny_dolls).folder
    assert (folder / "checkpoint.pt").exists()
    assert not list(folder.glob("shared-*"))


def test_a_trained_run_does_not_go_back_to_its_shared_start(siblings, tiny_dolls, monkeypatch):
    monkeypatch.setenv("REID_RESULTS", str(siblings))
    run = sweep("beta-30")
    fit(run, tiny_dolls)
    monkeypatch.setattr(train, "_train_epoch", None)
    assert len(fit(run, tiny_dolls).history) == run.epochs


def key(run: RunConfig, data: str = "pictures") -> str:
    return SharedStart.of(run, Path(), data, torch.device("cpu")).path.name


def test_only_late_settings_may_differ(monkeypatch):
    own = key(sweep("fgfl-cmimpl"))
    for same in (sweep("alpha-1"), sweep("beta-30"), sweep("both-terms"), sweep("beta-10-own")):
        assert key(same) == own
    for other in (sweep("alpha-1", lr=0.01), sweep("fgfl"), sweep("alpha-1", start_epoch=1)):
        assert key(other) != own
    assert key(sweep("alpha-1"), "other pictures") != own
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert key(sweep("alpha-1")) != own, "another number of threads sums in another order"


def test_other_code_has_other_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_start, "ROOT", tmp_path)
    source = tmp_path / "reid_core/losses.py"
    source.parent.mkdir()
    source.write_text("loss = 1")
    before = key(sweep("alpha-1"))
    source.write_text("loss = 2")
    assert key(sweep("alpha-1")) != before


@pytest.mark.parametrize("method", ["baselines", "fprnet"])
def test_methods_without_late_settings_share_nothing(method):
    variant = {"baselines": "two-stream", "fprnet": "fprnet"}[method]
    assert shared_start.shared_epochs(configure(method, variant, "smoke")) == 0


def test_a_start_of_other_versions_or_processes_is_another(monkeypatch):
    own = key(sweep("alpha-1"))
    with monkeypatch.context() as patch:
        patch.setattr(records, "version", lambda package: "0")
        assert key(sweep("alpha-1")) != own
    monkeypatch.setattr(distributed, "count", lambda: 2)
    assert key(sweep("alpha-1")) != own

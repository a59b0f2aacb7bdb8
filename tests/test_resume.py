"""A run that was killed and started again ends with the same bits as one that never was."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import torch

from reid_core import checkpoint
from reid_core.config import RunConfig
from reid_core.methods import configure
from reid_core.methods.baselines import Model
from reid_core.retrieval.features import measure
from reid_core.train import fit

# everything random is on, so that anything drawn twice or not again would show
RANDOM = {"trivial_augment": True, "erase": 0.5, "grayscale": 0.5, "pooling": "gem", "lr": 0.02}
FILES = ["params.json", *3 * ["checkpoint.pt"], "history.csv", "features.npy", "metrics.json"]


def smoke(**overrides) -> RunConfig:
    return configure("baselines", "two-stream", "smoke", RANDOM | overrides)


def same(a, b) -> bool:
    """Whether two nested states are equal to the bit, kinds of tensors included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b) and a.stride() == b.stride()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def assert_same_run(found: Path, expected: Path, measured: bool = True) -> None:
    """Two run folders: weights, optimizer, history without its seconds, features and metrics."""
    states = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (found, expected)]
    for state in states:
        for row in state["history"]:
            del row["seconds"]
    assert same(*states)
    tables = [pd.read_csv(f / "history.csv").drop(columns="seconds") for f in (found, expected)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    if measured:
        assert (found / "features.npy").read_bytes() == (expected / "features.npy").read_bytes()
        results = [json.loads((f / "metrics.json").read_text()) for f in (found, expected)]
        for result in results:
            del result["train_seconds"], result["provenance"]  # someone may commit meanwhile
        assert results[0] == results[1]


def work(results: Path, dolls: Path, run: RunConfig, kill_before: int) -> None:
    """What a child process does, packing included; it dies before its ``kill_before``-th file gets
    its name."""
    os.environ |= {"REID_RESULTS": str(results), "REID_DATA": str(results / "data")}
    torch.set_num_threads(1)
    calls, replace = [], Path.replace

    def counted(path, target):
        if target.parent.name != "cache":
            calls.append(target.name)
        if len(calls) == kill_before:
            assert calls == FILES[:kill_before]
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    Path.replace = counted
    measure(fit(run, dolls))


@pytest.fixture(scope="module")
def start(tiny_dolls):
    """Starts a process that works; children of a server that has torch loaded start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reid_core.retrieval.features"])

    def started(results: Path, run: RunConfig, kill_before: int = 0):
        arguments = (results, tiny_dolls, run, kill_before)
        child = context.Process(target=work, args=arguments)
        child.start()
        return child

    return started


def finish(child) -> None:
    child.join(120)
    assert child.exitcode == 0


def folder(results: Path, run: RunConfig) -> Path:
    return results / "runs" / run.folder_name()


def test_killed_before_any_of_its_files(start, tmp_path):
    run = smoke(epochs=3, steps=2)
    finish(start(tmp_path / "whole", run))
    expected = folder(tmp_path / "whole", run)
    for number, name in enumerate(FILES, 1):
        results = tmp_path / str(number)
        child = start(results, run, kill_before=number)
        child.join(120)
        assert child.exitcode == -signal.SIGKILL
        names = {p.name for p in folder(results, run).iterdir() if not p.name.startswith(".")}
        assert names == set(FILES[: number - 1]), name
        finish(start(results, run))
        assert_same_run(folder(results, run), expected)
        shutil.rmtree(results)


def test_killed_at_twenty_random_moments(start, tmp_path):
    """One in each twentieth of the run, from before it packs to after it has measured."""
    run = smoke(epochs=2, steps=2)
    finish(start(tmp_path / "first", run))  # starts the server too
    begun = time.monotonic()
    finish(start(tmp_path / "whole", run))
    lasted = time.monotonic() - begun
    random_, kills = random.Random(9), 0
    for number in range(20):
        results = tmp_path / str(number)
        child = start(results, run)
        child.join((number + random_.random()) / 20 * lasted)
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        finish(start(results, run))
        assert_same_run(folder(results, run), folder(tmp_path / "whole", run))
        shutil.rmtree(results)
    assert kills > 10  # a machine that has become faster meanwhile has finished before some


class Killed(BaseException):
    pass


def interrupted(call: int):
    """``Model.losses`` that ends the process's work at its ``call``-th batch."""
    calls, losses = [], Model.losses

    def spoiled(model, batch, epoch):
        calls.append(epoch)
        if len(calls) == call:
            raise Killed
        return losses(model, batch, epoch)

    return spoiled


@pytest.mark.parametrize(
    "optimizer, precision, threads",
    [("sgd", "bf16", 2), ("sgd", "fp32", 1), ("adam", "bf16", 1), ("adamw", "fp32", 1)],
)
def test_momentum_of_every_optimizer_survives(
    optimizer, precision, threads, monkeypatch, tmp_path, tiny_dolls
):
    """Stopped in the first epoch, in the second, and at once."""
    run = smoke(optimizer=optimizer, precision=precision, lr=0.01, steps=2)
    torch.set_num_threads(threads)
    try:
        monkeypatch.setenv("REID_RESULTS", str(tmp_path / "whole"))
        expected = fit(run, tiny_dolls)
        monkeypatch.setenv("REID_RESULTS", str(tmp_path / "stopped"))
        for call in (2, 4, 1):
            with monkeypatch.context() as patch, pytest.raises(Killed):
                patch.setattr(Model, "losses", interrupted(call))
                fit(run, tiny_dolls)
        found = fit(run, tiny_dolls)
    finally:
        torch.set_num_threads(1)
    assert_same_run(found.folder, expected.folder, measured=False)
    assert same(dict(found.model.state_dict()), dict(expected.model.state_dict()))


def test_a_full_gpu_does_not_make_a_checkpoint_a_damaged_one(monkeypatch, tiny_dolls):
    file = fit(smoke(), tiny_dolls).folder / "checkpoint.pt"
    error = torch.OutOfMemoryError("no memory left")
    monkeypatch.setattr(torch, "load", Mock(side_effect=error))
    with pytest.raises(torch.OutOfMemoryError):
        fit(smoke(), tiny_dolls)
    assert file.exists()


def test_resumed_run_sees_and_draws_the_same(monkeypatch, tmp_path, tiny_dolls):
    """The batches of a resumed run are those that an uninterrupted one would have seen, and so is
    what a method draws, for dropout; another epoch has others."""
    seen, losses = [], Model.losses

    def spy(model, batch, epoch):
        seen.append(
            (tuple(batch.identity.tolist()), batch.visible.sum().item(), torch.rand(()).item())
        )
        return losses(model, batch, epoch)

    run = smoke(epochs=3, steps=2)
    monkeypatch.setattr(Model, "losses", spy)
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "whole"))
    fit(run, tiny_dolls)
    whole, seen[:] = seen.copy(), []
    assert len(whole) == 6
    assert all(len(set(column)) == 6 for column in zip(*whole, strict=True))
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "stopped"))
    save = checkpoint.save

    def stops(*arguments):
        save(*arguments)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save", stops)
        fit(run, tiny_dolls)
    assert seen == whole[:2]
    fit(run, tiny_dolls)
    assert seen == whole

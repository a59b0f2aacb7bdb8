"""Several processes train one model as one process does.

The processes of this file compute in double precision, so that an equality up to rounding is an
equality to a millionth of a millionth, and nothing else can hide in it. Nine pictures of each
modality, which two ranks cannot share evenly.
"""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reid_core import distributed
from reid_core.__main__ import main
from reid_core.config import RunConfig
from reid_core.data.batches import Batch
from reid_core.methods import METHODS, build, configure
from reid_core.paths import ROOT
from reid_core.progress import Progress
from reid_core.train import fit, make_optimizer

PEOPLE, PICTURES = 3, 3
TRIED = {  # of a method that is not here, all variants
    "baselines": ["one-stream", "zero-padding", "two-stream-wrt", "agw", "pcb"],
    "multi_granularity": ["baseline", "mgsa-msam", "own-blocks"],
    "mutual_prediction": ["baseline", "fgfl-cmimpl", "both-terms"],
    "fprnet": ["fprnet", "released", "joint-channels", "resnet"],
    "crossvit_csa": ["baseline", "ta-crossvit-csa-wt", "center", "csa"],
    "mrda": ["baseline", "mrm-dam", "bam", "iwpam", "stage-3", "background-push"],
}
CASES = [(name, v) for name, module in METHODS.items() for v in TRIED.get(name, module.VARIANTS)]
EXACT = {"rtol": 1e-9, "atol": 1e-11}
FIT = configure("baselines", "agw", "smoke", {"precision": "fp32", "lr": 0.01, "erase": 0.5})


def step(method: str, variant: str) -> dict[str, dict[str, torch.Tensor]]:
    """Loss terms, gradients and what a step makes of the model's state."""
    torch.manual_seed(1)
    pattern = torch.randn(PEOPLE, 1, 48, 24).repeat_interleave(PICTURES, 0)
    pictures = (pattern + 0.3 * torch.randn(len(pattern), 3, 48, 24) for _ in range(2))
    batch = Batch(*pictures, torch.arange(PEOPLE).repeat_interleave(PICTURES))
    run = configure(method, variant, "smoke")
    torch.manual_seed(0)
    model = build(run, PEOPLE + 1).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(run, model)
    with distributed.spread(model):
        terms = model.losses(batch, epoch=0)
    sum(terms.values()).backward()
    distributed.average_gradients(model)
    optimizer.step()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    terms = {name: term.detach() for name, term in terms.items()}
    return {"terms": terms, "gradients": gradients, "state": model.state_dict()}


def flops(method: str, variant: str) -> int:
    with FlopCounterMode(display=False) as counter:
        step(method, variant)
    return counter.get_total_flops()


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Dropout(0.5), nn.Identity())


def drawn() -> list[torch.Tensor]:
    """What dropout does to all rows, twice, and what is drawn behind it."""
    torch.manual_seed(0)
    model, rows = Noisy(), torch.ones(9, 50)
    with distributed.spread(model):
        return [model.backbone(rows), model.backbone[0](rows), torch.rand(3)]


def refusals() -> list[str]:
    errors, model = [], Noisy()
    with distributed.spread(model), pytest.raises(distributed.RankError) as error:
        model.backbone(torch.ones(1, 5))
    errors.append(str(error.value))
    with pytest.raises(distributed.RankError) as error:
        distributed.require_same(epochs=distributed.rank())
    return [*errors, str(error.value)]


class Killed(Exception):
    pass


def begin(run: RunConfig, data: Path) -> None:
    """Its first epoch alone."""
    epoch_done = Progress.epoch_done

    def stops(*arguments):
        raise Killed

    Progress.epoch_done = stops
    with pytest.raises(Killed):
        fit(run, data)
    Progress.epoch_done = epoch_done


def fitted(results: Path, work, data: Path) -> None:
    os.environ["REID_RESULTS"] = str(results)
    work(FIT, data)


def process(rank: int, count: int, folder: Path, data: Path, cache: str, jobs: list[str]) -> None:
    os.environ |= {"REID_DATA": cache, "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    if count > 1:
        method = f"file://{folder / 'meeting'}"
        dist.init_process_group("gloo", init_method=method, rank=rank, world_size=count)
    found = {}
    for job in jobs:
        name, *place = job.split()
        if name == "steps":
            found |= {case: step(*case) for case in CASES}
            found["flops"] = [flops("baselines", "two-stream"), flops("mrda", "mrm-dam")]
            found["drawn"] = drawn()
            found["refusals"] = refusals() if count > 1 else []
        else:
            fitted(folder / place[0], {"fit": fit, "begin": begin}[name], data)
    if found:
        torch.save(found, folder / f"{count}-{rank}.pt")
    distributed.leave()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_dolls) -> Path:
    """What one process and what two made, and three runs: of one, of two, and two begun by the
    others."""
    folder = tmp_path_factory.mktemp("processes")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reid_core.retrieval.features"])

    def work(count: int, *jobs: str) -> None:
        shared = (folder, tiny_dolls, os.environ["REID_DATA"], jobs)
        ranks = [
            context.Process(target=process, args=(rank, count, *shared), daemon=True)
            for rank in range(count)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(300)  # where one fails, the others wait for it
        for rank in ranks:
            rank.kill()
            rank.join()
            assert rank.exitcode == 0

    work(1, "steps", "fit one", "begin one-two")
    work(2, "steps", "fit two", "fit one-two", "begin two-one")
    work(1, "fit two-one")
    return folder


@pytest.fixture(scope="module")
def one(folder) -> dict:
    return torch.load(folder / "1-0.pt", weights_only=False)


@pytest.fixture(scope="module")
def two(folder) -> list[dict]:
    return [torch.load(folder / f"2-{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids="/".join)
def test_two_processes_make_the_step_that_one_makes(case, one, two):
    """Every loss term, gradient, weight and running statistic; and both ranks the same bits."""
    torch.testing.assert_close(two[0][case], one[case], **EXACT)
    torch.testing.assert_close(two[0][case], two[1][case], rtol=0, atol=0)


def test_work_is_shared(one, two):
    """Of nine pictures of a modality one rank has five, and half of those that mrda makes of them;
    what is left to every rank is hardly anything."""
    shares = [[rank["flops"][n] / one["flops"][n] for rank in two] for n in range(2)]
    assert shares[0] == pytest.approx([5 / 9, 4 / 9], abs=0.002)
    assert shares[1] == pytest.approx([1 / 2, 1 / 2], abs=0.002)


def test_what_the_backbone_draws_differs_by_row_and_step_and_moves_nothing_behind_it(one, two):
    torch.testing.assert_close(two[0]["drawn"], two[1]["drawn"], rtol=0, atol=0)
    first, second, behind = two[0]["drawn"]
    masks = torch.cat([first, second])
    assert masks.unique().tolist() == [0, 2]
    assert len(masks.unique(dim=0)) == 18
    torch.manual_seed(0)
    assert torch.equal(behind, torch.rand(3, dtype=torch.float64))


def test_fewer_gpus_than_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(distributed.RankError, match="process 2 on this machine finds 1 GPUs"):
        distributed.join(torch.device("cuda"))


def test_what_cannot_be_shared_is_refused(two):
    few, apart = two[0]["refusals"]
    assert few.startswith("1 pictures cannot be shared by 2 processes: start fewer")
    assert apart.startswith(
        "found, rank by rank, [{'epochs': 0}, {'epochs': 1}]; expected the same"
    )


def run_folder(results: Path) -> Path:
    return results / "runs" / FIT.folder_name()


@pytest.mark.parametrize("results", ["two", "one-two", "two-one"])
def test_run_of_several_processes_is_the_run_of_one(results, folder):
    """Also where another number of processes began it."""
    found, expected = (run_folder(folder / name) for name in (results, "one"))
    states = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (found, expected)]
    torch.testing.assert_close(states[0]["model"], states[1]["model"], **EXACT)
    torch.testing.assert_close(states[0]["optimizer"], states[1]["optimizer"], **EXACT)
    tables = [pd.read_csv(f / "history.csv").drop(columns="seconds") for f in (found, expected)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-9)
    params, one = (json.loads((f / "params.json").read_text()) for f in (found, expected))
    assert params["config"] == one["config"]
    assert params["provenance"]["processes"] == (1 if results == "one-two" else 2)


def test_command_line(tmp_path, monkeypatch, tiny_dolls):
    """As the README says, with torch's launcher and in bfloat16."""
    what = ["train", "mrda/mrm-dam", "--profile", "smoke", "--data", str(tiny_dolls)]
    what += ["--overrides", "{lr: 0.001, epochs: 1}"]  # later on bfloat16's rounding has grown
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    environment = os.environ | {"REID_RESULTS": str(tmp_path / "two"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "2", "-m", "reid_core", *what],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = ("precision: ", "health: ")  # of the machine, and of a training of three steps
    lines = [s for s in done.stdout.splitlines() if not s.startswith(said)]
    assert lines[0].startswith("epoch   1/1  ")
    assert lines[1].startswith("all, gallery agw, 1-shot: rank1 ")  # the second process is silent
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "one"))
    assert main(what) == 0
    name = configure("mrda", "mrm-dam", "smoke", dataset="paperdolls-tiny").folder_name()
    folders = [tmp_path / results / "runs" / name for results in ("two", "one")]
    found, expected = (pd.read_csv(folder / "history.csv") for folder in folders)
    columns = expected.columns.drop("seconds")
    pd.testing.assert_frame_equal(found[columns], expected[columns], rtol=0.01)
    params = json.loads((folders[0] / "metrics.json").read_text())
    assert params["provenance"]["processes"] == 2 and params["results"][0]["mode"] == "all"


def test_command_line_says_what_is_wrong(capsys):
    assert main(["train", "baselines/three-stream", "--profile", "smoke"]) == 2
    assert "error: variant of baselines: found 'three-stream'" in capsys.readouterr().err
    assert main(["train", "baselines/two-stream", "--profile", "gpu"]) == 2
    assert "paperdolls-full needs" in capsys.readouterr().err, "the profile's dataset"
    weights = "{backbone: resnet18, weights: absent.pth}"
    what = ["train", "baselines/agw", "--profile", "smoke", "--dataset", "paperdolls-tiny"]
    assert main([*what, "--overrides", weights]) == 2
    assert "error: baselines/agw: weights: found no file" in capsys.readouterr().err
    for text in ("epochs", "{epochs: 2"):
        with pytest.raises(SystemExit):
            main(["train", "baselines/agw", "--overrides", text])
        assert f"'{text}' is no mapping such as '{{epochs: 2}}'" in capsys.readouterr().err

"""What is missing is run, what is finished is not, and a failure stops nothing but itself."""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import replace

import nbformat
import psutil
import pytest
import torch
from test_resume import assert_same_run

from reid_core import clock, records, reproduce
from reid_core.__main__ import main
from reid_core.artefacts import artefacts
from reid_core.config import ConfigError
from reid_core.data.datasets import obtain, read
from reid_core.data.images import fingerprint
from reid_core.data.paperdolls import draw_sysu
from reid_core.drawings import Place
from reid_core.paths import ROOT

PLACE = Place("smoke", "paperdolls-tiny", "paperdolls-tiny-regdb")
ONE = "smoke/paperdolls-tiny/baselines/two-stream"


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    return tmp_path / "runs"


def test_shared_runs_are_planned_once():
    wanted = [artefacts()[name] for name in ("mrda-T1", "mrda-T2", "mrda-F6")]
    jobs = reproduce.plan(wanted, PLACE, seeds=(0, 1))
    names = [job.name for job in jobs]
    assert len(names) == len(set(names)) == 2 * (4 + 4 + 5 - 2), "mrm-dam is in all three"
    assert [name[-5:] for name in names] == ["seed0"] * 11 + ["seed1"] * 11, (
        "a seed is finished first"
    )


def test_regdb_trains_a_model_a_trial():
    jobs = reproduce.plan([artefacts()["mrda-T5"]], PLACE, trials=(1, 2))
    assert [job.name[-12:] for job in jobs] == ["seed0-trial1", "seed0-trial2"] * 3
    assert [job.parameters["trial"] for job in jobs] == [1, 2] * 3


def test_real_regdb_takes_all_ten_trials_where_its_paper_reports_their_mean():
    """mrda-T5 is a mean of ten models, mutual_prediction's T4 is one trial; drawn people have one
    in both, and who asks for some gets these."""
    real, drawn = Place("paper", "sysu", "regdb"), PLACE
    mean, single = artefacts()["mrda-T5"], artefacts()["mutual_prediction-T4"]

    def trials(artefact, place, **asked):
        jobs = reproduce.plan([artefact], place, **asked)
        return sorted({job.run.trial for job in jobs if job.run.dataset.endswith("regdb")})

    assert trials(mean, real) == list(range(1, 11))
    assert trials(single, real) == [1] == trials(mean, drawn)
    assert trials(mean, real, trials=(2, 3)) == [2, 3] == trials(single, real, trials=(2, 3))


def test_a_model_of_another_trial_is_refused(results, monkeypatch):
    """Its people are others: half of the test identities of one trial train in the next."""
    first, second = reproduce.plan([artefacts()["mrda-T5"]], PLACE, trials=(1, 2))[-2:]
    assert (first.run.trial, second.run.trial) == (1, 2)
    folder = records.folder_of(second.run)
    folder.mkdir(parents=True)
    content = {"config": first.run.to_dict(), "data": "of trial 1"}
    (folder / "metrics.json").write_text(json.dumps(content))
    monkeypatch.setattr(reproduce, "execute", None)
    failed = reproduce.run_all([second], workers=1)
    assert "trial is 1 there, 2 asked" in failed[second.name]


def test_figure_6_alone_is_measured_after_every_epoch():
    jobs = reproduce.plan(reproduce.chosen(["fprnet"]), PLACE)
    curves = [job.run.variant for job in jobs if job.parameters.get("curve")]
    assert set(curves) == {"resnet", "svdnet", "fprnet", "fprnet-srcnn"}


@pytest.mark.parametrize(
    ("named", "expected"),
    [([], ("sysu", "regdb")), (["sysu"], ("sysu", "")), (["regdb"], ("", "regdb"))],
)
def test_datasets_of_a_profile_or_those_that_are_named(named, expected):
    place = reproduce.place_of("paper", named)
    assert (place.sysu, place.regdb) == expected


def test_datasets_that_cannot_be_meant_are_refused(capsys):
    for named in (["sysu", "paperdolls-sysu"], ["llcm"]):
        with pytest.raises(ConfigError, match="expected one in SYSU-MM01's layout"):
            reproduce.place_of("paper", named)
    assert main(["reproduce", "--list", "--profile", "paper", "--data", "somewhere"]) == 2
    assert "one folder for sysu and regdb. Name one dataset" in capsys.readouterr().err


def test_real_data_are_planned_and_missed_before_anything_runs(results, tmp_path, capsys):
    command = ["reproduce", "mrda-T3", "--profile", "paper", "--dataset", "sysu"]
    command += ["--data", str(tmp_path / "nowhere")]
    assert main([*command, "--list"]) == 0
    listed = capsys.readouterr().out
    assert "1 artefacts, 3 distinct runs, 0 finished" in listed and "no records of paper" in listed
    assert main(command) == 2
    assert "nowhere: no such folder, expected the dataset sysu" in capsys.readouterr().err
    assert main(["reproduce", "mrda-T3", "--profile", "gpu"]) == 2
    assert "paperdolls-full --inventory FOLDER" in capsys.readouterr().err
    assert not results.exists()


@pytest.mark.parametrize(
    "command",
    [["mrda-F8", "--profile", "smoke"], ["--only", "smoke/paperdolls-tiny/mrda/mrm-dam/seed0"]],
)
def test_a_parameter_that_a_notebook_lacks_is_refused_before_anything_runs(
    command, results, monkeypatch, capsys
):
    right = reproduce._job

    def one_wrong(name: str, *place: object) -> reproduce.Job:  # the first of Figure 8's two
        job = right(name, *place)
        wrong = {"sed": 1} if name == "mrda/mrm-dam" else {}
        return replace(job, parameters=job.parameters | wrong)

    monkeypatch.setattr(reproduce, "_job", one_wrong)
    monkeypatch.setattr(reproduce, "execute", None)
    assert main(["reproduce", *command]) == 2
    assert re.search(r"15_mrda\.ipynb: has no parameter sed; .*seed", capsys.readouterr().err)
    assert not results.exists()


@pytest.mark.parametrize("name", ["mrda", "smoke/x/mrda/dam/seed", "smoke/x/mrda/seed0"])
def test_a_name_that_is_no_run_is_refused(name):
    with pytest.raises(ConfigError, match="expected profile/dataset/method/variant/seed"):
        reproduce.job_of(name)


def test_an_unknown_artefact_is_refused_with_the_choices(capsys):
    assert main(["reproduce", "mrda-T9"]) == 2
    assert "found 'mrda-T9', expected one of mutual_prediction-T2" in capsys.readouterr().err


def test_list_counts_runs_and_trains_nothing(results, capsys):
    assert main(["reproduce", "mrda-F6", "--list", "--profile", "smoke"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "mrda-F6                    0 of   5 runs  where the mask constrains",
        "1 artefacts, 5 distinct runs, 0 finished",
        "no records of smoke on a CPU tell how long that takes",
    ]
    assert not results.exists()


@pytest.mark.parametrize("bfloat16", [True, False])
def test_list_names_what_is_in_the_way_and_tells_how_long_it_takes(
    bfloat16, results, monkeypatch, capsys
):
    blocked = results / "smoke/paperdolls-tiny/mrda/stage-2/seed0"
    blocked.mkdir(parents=True)
    config = reproduce.job_of(f"smoke/{blocked.relative_to(results / 'smoke')}").run.to_dict()
    content = {"config": config | {"lr": 0.5}, "data": "x"}
    (blocked / "metrics.json").write_text(json.dumps(content))
    monkeypatch.setattr(clock, "recorded_seconds", lambda run: 100 - clock.BESIDE)
    monkeypatch.setattr(reproduce, "computes_bfloat16", lambda device: bfloat16)
    assert main(["reproduce", "mrda-F6", "--list", "--profile", "smoke", "--jobs", "2"]) == 0
    *_, reason, time_left = capsys.readouterr().out.splitlines()
    assert "stage-2/seed0: this run exists with other settings: lr is 0.5 there" in reason
    assert time_left.startswith("about 3 min 20 s, 2 at a time, by the records' times")
    assert time_left.endswith("takes longer") != bfloat16


def test_a_failure_is_named_with_its_notebook_and_stops_nothing_else(results, tmp_path, capsys):
    broken = results / f"{ONE}-wrt/seed0/checkpoint.pt"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no checkpoint, and no params.json beside it")
    runs = [f"{ONE}-wrt/seed0", f"{ONE}/seed0"]
    assert main(["reproduce", "--only", *runs, "--jobs", "1"]) == 1
    printed = capsys.readouterr()
    assert "FAILED: RunError" in printed.out
    assert f"again: python -m reid_core reproduce --only {runs[0]}" in printed.err
    assert f"failed: {runs[1]}" not in printed.err
    executed = nbformat.read(broken.parent / "notebook.ipynb", 4)
    errors = [o for c in executed.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert errors[0].ename == "RunError"
    finished = results / f"{ONE}/seed0"
    assert (finished / "notebook.ipynb").is_file()
    before = (finished / "metrics.json").stat().st_mtime_ns
    assert main(["reproduce", "--only", runs[1]]) == 0
    assert "1 runs: 1 finished before" in capsys.readouterr().out
    assert (finished / "metrics.json").stat().st_mtime_ns == before, "nothing was run again"


def test_other_settings_in_its_place_are_left_alone_and_named(results, monkeypatch):
    job = reproduce.job_of(f"{ONE}/seed3")
    folder = records.folder_of(job.run)
    folder.mkdir(parents=True)
    config = job.run.to_dict() | {"lr": 0.5}
    (folder / "metrics.json").write_text(json.dumps({"config": config, "data": "x"}))
    monkeypatch.setattr(reproduce, "execute", None)
    failed = reproduce.run_all([job], workers=1)
    assert "lr is 0.5 there" in failed[job.name]


def test_other_data_in_its_place_are_left_alone_and_named(results, tmp_path, monkeypatch):
    root = tmp_path / "dolls"
    draw_sysu(root, train=4, val=0, test=1, images=2, height=48, width=24, workers=1)
    job = reproduce.job_of(f"{ONE}/seed3", str(root))
    records.open_folder(job.run, "of other pictures", torch.device("cpu"))
    records.finish(job.run, [])
    monkeypatch.setattr(reproduce, "execute", None)
    failed = reproduce.run_all([job], workers=1)
    assert "data is 'of other pictures' there" in failed[job.name]


def test_a_run_named_twice_runs_once(results, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(reproduce, "execute", lambda *call: asked.append(call))
    monkeypatch.setattr(reproduce, "obtain", lambda *call: None)
    assert main(["reproduce", "--only", f"{ONE}/seed0", f"{ONE}/seed00", "--jobs", "2"]) == 1
    assert len(asked) == 1
    assert capsys.readouterr().err.count("failed: ") == 1


@pytest.mark.parametrize(
    "more", [["mrda-T1"], ["--list"], ["--profile", "smoke"], ["--seeds", "1"]], ids=str
)
def test_only_takes_no_other_choice_of_runs(more, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "run_all", None)
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", *more, "--only", f"{ONE}/seed0"])
    assert stopped.value.code == 2
    assert "--only names whole runs: leave out " in capsys.readouterr().err


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_reproduction_ends_as_one_that_was_not(kills, results, tmp_path):
    """At any moment, or soon after the kernel has begun its notebook; every second kill leaves the
    kernel behind, which then works on for a while."""
    runs = [f"{ONE}/seed{seed}" for seed in range(5, 5 + -(-kills // 3))]
    command = [sys.executable, "-m", "reid_core", "reproduce", "--jobs", "1", "--only"]
    elsewhere = {**os.environ, "REID_RESULTS": str(tmp_path / "whole")}
    begun = time.monotonic()
    subprocess.run([*command, *runs], cwd=ROOT, check=True, env=elsewhere)
    lasted = (time.monotonic() - begun) / len(runs)
    moments = random.Random(9)
    for number in range(kills):
        run = runs[number // 3]
        process = subprocess.Popen([*command, run], cwd=ROOT)
        while number % 3 and process.poll() is None and not (results / run).exists():
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0, 0.3 if number % 3 else 1) * lasted)
        process.poll()
        kernels = []
        if number % 2 and process.returncode is None:
            kernels = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for kernel in kernels:
            kernel.kill()
    deadline = time.monotonic() + 600
    while subprocess.run([*command, *runs], cwd=ROOT).returncode != 0:
        assert time.monotonic() < deadline, "a killed one's kernel lives on"
    for run in runs:
        assert_same_run(results / run, tmp_path / "whole" / "runs" / run)


def test_trials_of_one_dataset_have_data_of_their_own(results, monkeypatch):
    jobs = reproduce.plan([artefacts()["mrda-T5"]], PLACE, trials=(1, 2))[-2:]
    root = obtain(jobs[0].run.dataset)
    for job in jobs:
        data = fingerprint(read(job.run.dataset, root, job.run.trial), root)
        records.open_folder(job.run, data, torch.device("cpu"))
        records.finish(job.run, [])
    monkeypatch.setattr(reproduce, "execute", None)
    assert reproduce.run_all(jobs, workers=1) == {}


def test_a_failed_run_leaves_the_time_left_and_cores_are_shared(results, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # so that it is put back
    monkeypatch.delenv("OMP_NUM_THREADS")
    run = "smoke/paperdolls-tiny/baselines/two-stream/seed"
    jobs = [reproduce.job_of(f"{run}{seed}") for seed in range(3)]

    def timed(job):
        if job.run.seed == 1:
            raise reproduce.NotebookError("no")
        return 100.0

    monkeypatch.setattr(reproduce, "_timed", timed)
    monkeypatch.setattr(reproduce, "obtain", lambda *call: None)
    monkeypatch.setattr(reproduce.os, "cpu_count", lambda: 6)
    monkeypatch.setattr(clock, "recorded_seconds", lambda run: None)
    assert list(reproduce.run_all(jobs, workers=1)) == [jobs[1].name]
    assert " left" not in capsys.readouterr().out.splitlines()[-1]
    assert os.environ["OMP_NUM_THREADS"] == "6"

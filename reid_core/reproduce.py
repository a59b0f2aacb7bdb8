"""Every run that artefacts stand on, each once: what is finished is skipped, the rest is run, one
execution of its method's notebook each, and what failed is named at the end."""

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid_core import records
from reid_core.artefacts import artefacts
from reid_core.clock import Clock, duration, expected_seconds
from reid_core.config import ConfigError, RunConfig, profile_datasets
from reid_core.data.datasets import layout, locate, obtain, read
from reid_core.data.images import fingerprint
from reid_core.data.index import DatasetError
from reid_core.data.regdb import TRIALS
from reid_core.drawings import Artefact, Place
from reid_core.methods import configure
from reid_core.notebooks import NotebookError, check, execute, notebook_of
from reid_core.paths import shown
from reid_core.precision import computes_bfloat16, device_named

_NAME = re.compile(r"([^/]+)/([^/]+)/([^/]+/[^/]+)/seed(\d+)(?:-trial(\d+))?")


def place_of(profile: str, named: Iterable[str] = (), data: str = "", seed: int = 0) -> Place:
    """Where artefacts are measured: on the profile's datasets, or on those that are ``named``, of
    each layout one. ``data`` is the folder of the one dataset.

    Raises
    ------
    ConfigError
        There is no such profile, two datasets share a layout or none has an artefact's, or
        ``data`` would have to be the folder of two.
    DatasetError
        There is no such dataset.
    """
    datasets, named = profile_datasets(profile), list(named)
    if named:
        found = {layout(name): name for name in named}
        if len(found) < len(named) or found.keys() - datasets.keys():
            raise ConfigError(
                f"dataset: found {', '.join(named)}, expected one in SYSU-MM01's layout, one in "
                "RegDB's, or both: the papers' artefacts are of these."
            )
        datasets = {kind: found.get(kind, "") for kind in datasets}
    if data and all(datasets.values()):
        raise ConfigError(
            f"data: found one folder for {' and '.join(datasets.values())}. Name one dataset, or "
            "put both below one folder, under these names, and name that in REID_DATA."
        )
    return Place(profile, **datasets, seed=seed, data=data)


@dataclass(frozen=True)
class Job:
    """A run and the notebook parameters that make it."""

    run: RunConfig
    parameters: dict[str, Any]

    @property
    def name(self) -> str:
        return self.run.folder_name()

    @property
    def notebook(self) -> Path:
        return notebook_of(self.run.method)

    @property
    def executed(self) -> Path:
        return records.folder_of(self.run) / "notebook.ipynb"

    def finished(self) -> bool:
        """Raises RunError where a run with other settings is finished in its place."""
        return records.finished(self.run) is not None


def plan(
    wanted: Iterable[Artefact],
    place: Place,
    *,
    seeds: Iterable[int] = (0,),
    trials: Sequence[int] = (),
) -> list[Job]:
    """The distinct runs of ``wanted``, seed by seed, in their order.

    A dataset in RegDB's layout is trained once for each of ``trials``, a model each. Without
    ``trials`` an artefact has the one that its paper measures, or else all ten on RegDB itself,
    whose papers report their mean, and the first on drawn people.

    Raises
    ------
    ConfigError
        A profile or a setting is wrong.
    NotebookError
        A notebook lacks a parameter that a run needs.
    """
    jobs = _distinct(wanted, place, seeds, trials)
    given: dict[Path, dict[str, Any]] = {}
    for job in jobs:
        given.setdefault(job.notebook, {}).update(job.parameters)
    for notebook, parameters in given.items():
        check(notebook, parameters)
    return jobs


def _distinct(
    wanted: Iterable[Artefact], place: Place, seeds: Iterable[int], trials: Sequence[int]
) -> list[Job]:
    jobs: dict[str, Job] = {}
    wanted = list(wanted)
    for seed in seeds:
        for artefact in wanted:
            for name, kind in artefact.runs:
                if dataset := place.dataset(kind):
                    for trial in trials_of(artefact, dataset, trials):
                        job = _job(name, place.profile, dataset, seed, trial, place.data)
                        jobs.setdefault(job.name, job)
    return list(jobs.values())


def trials_of(artefact: Artefact, dataset: str, asked: Sequence[int] = ()) -> Sequence[int]:
    """The trials of ``dataset`` that ``artefact`` is trained on; see `plan`."""
    if not dataset.endswith("regdb"):
        return (1,)
    if asked:
        return asked
    if artefact.trial:
        return (artefact.trial,)
    return TRIALS if dataset == "regdb" else (1,)


def job_of(name: str, data: str = "") -> Job:
    """The run that ``results/runs/<name>`` holds: profile/dataset/method/variant/seed<k>, for
    RegDB's layout with -trial<t>.

    Raises
    ------
    ConfigError
        It names no such run.
    NotebookError
        The notebook lacks a parameter that the run needs.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise ConfigError(
            f"run: found '{name}', expected profile/dataset/method/variant/seed<k>[-trial<t>]."
        )
    profile, dataset, variant, seed, trial = found.groups()
    job = _job(variant, profile, dataset, int(seed), int(trial or 1), data)
    check(job.notebook, job.parameters)
    return job


def _job(name: str, profile: str, dataset: str, seed: int, trial: int, data: str) -> Job:
    method, variant = name.split("/")
    run = configure(method, variant, profile, dataset=dataset, seed=seed, trial=trial)
    rows = "variants" if method == "baselines" else "variant"  # that notebook compares several
    parameters = {"profile": profile, "dataset": dataset, "data": data, rows: variant}
    for artefact in artefacts().values():
        if (name, layout(dataset)) in artefact.runs:
            parameters |= artefact.parameters.get(method, {})
    return Job(run, parameters | {"seed": seed, "trial": trial})


def run_all(jobs: list[Job], workers: int) -> dict[str, str]:
    """Runs what is missing of ``jobs``, ``workers`` at a time, each with its share of the cores,
    and returns the failed ones' names with what went wrong. A line for each tells how long it took
    and about how long the rest will take.

    Raises
    ------
    DatasetError
        A dataset of theirs is missing and cannot be drawn; nothing was run.
    """
    failed: dict[str, str] = {}
    jobs = list({job.name: job for job in jobs}.values())
    missing = _missing(jobs, failed)
    print(f"{len(jobs)} runs: {len(jobs) - len(missing) - len(failed)} finished before", flush=True)
    if not missing:
        return failed
    for job in {job.run.dataset: job for job in missing}.values():
        obtain(job.run.dataset, job.parameters["data"])
    # kernels inherit it; one thread a run wastes less than many threads on one after another
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    clock = Clock([job.run for job in missing], workers)
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_timed, job): job for job in missing}
        for number, future in enumerate(_interruptible(futures, pool), 1):
            job = futures[future]
            try:
                seconds = future.result()
                clock.done(job.run, seconds)
                what = duration(seconds)
            except Exception as error:  # of one run: the others go on
                failed[job.name] = str(error)
                clock.failed(job.run)
                what = f"FAILED: {error}"
            print(f"[{number}/{len(missing)}] {job.name}  {what}{clock.left()}", flush=True)
    return failed


def _missing(jobs: list[Job], failed: dict[str, str]) -> list[Job]:
    """Those of ``jobs`` that are to be run. What is finished with other settings or on other data
    is left alone, and named among the ``failed``."""
    missing, contents = [], {}
    for job in jobs:
        try:
            if not job.finished():
                missing.append(job)
                continue
            dataset = job.run.dataset, job.run.trial
            if dataset not in contents:
                contents[dataset] = _content(*dataset, job.parameters["data"])
            records.finished(job.run, contents[dataset])
        except records.RunError as error:
            failed[job.name] = str(error)
    return missing


def _content(dataset: str, trial: int, folder: str) -> str | None:
    """The dataset's fingerprint; None where it is not here to compare with, nor to be run on."""
    try:
        root = locate(dataset, folder)
        return fingerprint(read(dataset, root, trial), root)
    except DatasetError:
        return None


def _timed(job: Job) -> float:
    started = time.monotonic()
    execute(job.notebook, job.executed, job.parameters)
    if not job.finished():
        raise NotebookError(f"ran, but left no metrics.json — see {shown(job.executed)}")
    return time.monotonic() - started


def _interruptible(
    futures: Iterable[Future[float]], pool: ThreadPoolExecutor
) -> Iterator[Future[float]]:
    """The futures as they are done; an interrupt starts no further ones."""
    try:
        yield from as_completed(futures)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def chosen(names: list[str]) -> list[Artefact]:
    """The artefacts of ``names``: "mrda-T1", or "mrda" for all of a paper; of no names, all.

    Raises
    ------
    ConfigError
        There is no such artefact or paper.
    """
    known = artefacts()
    for name in names:
        if name not in known and name not in {a.paper for a in known.values()}:
            raise ConfigError(f"artefact: found '{name}', expected one of {', '.join(known)}.")
    return [a for a in known.values() if not names or a.name in names or a.paper in names]


def overview(
    wanted: list[Artefact],
    place: Place,
    workers: int,
    *,
    seeds: Sequence[int] = (0,),
    trials: Sequence[int] = (),
) -> str:
    """A line for each artefact: how many runs it stands on, and how many of them are finished on
    this machine; then how many distinct runs that makes, and about how long the missing ones take,
    where records tell."""
    every, failed = plan(wanted, place, seeds=seeds, trials=trials), {}
    missing = _missing(every, failed)
    done = {job.name for job in every if job not in missing} - failed.keys()
    lines = []
    for artefact in wanted:
        names = {job.name for job in _distinct([artefact], place, seeds, trials)}
        counts = f"{len(names & done):>3} of {len(names):>3} runs"
        lines.append(f"{artefact.name:<24} {counts}  {artefact.title}")
    lines.append(f"{len(wanted)} artefacts, {len(every)} distinct runs, {len(done)} finished")
    lines += [f"in the way: {why}" for why in failed.values()]
    if seconds := sum(expected_seconds([job.run for job in missing]).values()) / workers:
        by = "by the records' times"
        if not computes_bfloat16(device_named("auto")):
            by += ", most of CPUs that compute in bfloat16; this one does not, and takes longer"
        lines.append(f"about {duration(seconds)}, {workers} at a time, {by}")
    elif missing:
        lines.append(f"no records of {place.profile} on a CPU tell how long that takes")
    return "\n".join(lines)


def draw_all(wanted: list[Artefact], place: Place) -> dict[str, str]:
    """Draws the artefacts from what is finished, and returns what went wrong with which."""
    failed = {}
    for artefact in wanted:
        try:
            paths = artefact.save(place).values()
            if paths:
                print(f"{artefact.name}: {', '.join(shown(path) for path in paths)}", flush=True)
        except Exception as error:  # of one artefact: the others are drawn
            failed[artefact.name] = f"{type(error).__name__}: {error}"
    return failed

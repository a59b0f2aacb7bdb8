"""How long runs take: by the committed records, and by what this machine has shown so far."""

import re
from collections.abc import Sequence
from statistics import mean

from reid_core import records
from reid_core.config import RunConfig
from reid_core.paths import REPORTED
from reid_core.shared_start import settings_of_start, shared_epochs

BESIDE = 15.0  # seconds of a notebook beside its training, on the records' machine


def expected_seconds(runs: Sequence[RunConfig]) -> dict[str, float]:
    """How long each run takes by the committed records, on their machine; one without a record
    takes the mean of its method's, or else of all. Epochs that a run before it shares are trained
    once. Nothing where there is no record at all."""
    known = {run.folder_name(): recorded_seconds(run) for run in runs}
    every = [seconds for seconds in known.values() if seconds]
    found, begun = {}, set()
    for run in runs if every else ():
        alike = [known[r.folder_name()] for r in runs if r.method == run.method]
        seconds = known[run.folder_name()] or mean([s for s in alike if s] or every)
        if shared := min(shared_epochs(run), run.epochs):
            start = repr(settings_of_start(run))
            seconds *= 1 - shared / run.epochs if start in begun else 1
            begun.add(start)
        found[run.folder_name()] = seconds + BESIDE
    return found


def recorded_seconds(run: RunConfig) -> float | None:
    """Of training, by the quickest of the run's records, whatever their seeds: they differ in what
    else their machine did. A GPU's do not count: most machines have none."""
    name = re.sub(r"/seed\d+", "/seed*", run.folder_name())
    contents = [records.read_json(p) for p in (REPORTED / "runs").glob(f"{name}/metrics.json")]
    return min(
        (c["train_seconds"] for c in contents if c["provenance"]["device"].startswith("cpu")),
        default=None,
    )


class Clock:
    """How long the rest takes: every run as long as expected (all alike where nothing is known),
    times how much slower this machine has been than that so far."""

    def __init__(self, runs: Sequence[RunConfig], workers: int):
        self.workers = workers
        self.rest = expected_seconds(runs) or dict.fromkeys([r.folder_name() for r in runs], 1.0)
        self.expected = self.measured = 0.0

    def done(self, run: RunConfig, seconds: float) -> None:
        self.expected += self.rest.pop(run.folder_name())
        self.measured += seconds

    def failed(self, run: RunConfig) -> None:
        del self.rest[run.folder_name()]

    def left(self) -> str:
        """Nothing before the first run has shown how fast this machine is."""
        if not self.rest or not self.expected:
            return ""
        seconds = sum(self.rest.values()) * self.measured / self.expected / self.workers
        return f", about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """As "2 h 5 min", "3 min 20 s" or "9 s"."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

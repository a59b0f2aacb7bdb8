"""How long is left, from records with known seconds."""

import json
from dataclasses import replace

import pytest

from reid_core import clock
from reid_core.methods import configure


def test_the_time_left_follows_the_records_and_this_machine(monkeypatch):
    runs = [configure("baselines", "two-stream", "smoke", seed=seed) for seed in range(4)]
    values = dict(zip([run.folder_name() for run in runs], (100, 100, 300, 200), strict=True))
    monkeypatch.setattr(clock, "expected_seconds", lambda runs: dict(values))
    found = clock.Clock(runs, workers=2)
    assert found.left() == "", "nothing is known of this machine yet"
    found.done(runs[0], 200)  # twice as slow as the record: 100 + 300 + 200, on two workers
    assert found.left() == ", about 10 min 0 s left"
    found.failed(runs[2])
    assert found.left() == ", about 5 min 0 s left"


def test_a_run_is_expected_to_last_as_its_record_or_the_others(monkeypatch):
    names = [("baselines", variant) for variant in ("two-stream", "agw", "pcb")]
    names += [("mrda", "dam")]
    names += [("mutual_prediction", variant) for variant in ("fgfl-cmimpl", "alpha-1", "fgfl")]
    runs = [configure(*name) for name in names]
    seconds = dict(zip(names, (100, 300, None, None, 190, 190, 190), strict=True))
    monkeypatch.setattr(clock, "recorded_seconds", lambda r: seconds[r.method, r.variant])
    found = [s - clock.BESIDE for s in clock.expected_seconds(runs).values()]
    shared = 190 * (1 - 2 / 8)  # of 8 epochs the full method has trained the first two
    assert found == pytest.approx([100, 300, 200, 970 / 5, 190, shared, 190])
    monkeypatch.setattr(clock, "recorded_seconds", lambda run: None)
    assert clock.expected_seconds(runs) == {}


def test_the_quickest_record_of_any_seed_counts_unless_a_gpu_made_it(monkeypatch, tmp_path):
    monkeypatch.setattr(clock, "REPORTED", tmp_path)
    run = configure("baselines", "two-stream", dataset="paperdolls-regdb")

    def keep(seconds: float, device: str = "cpu (x86_64)", **of: int) -> None:
        path = tmp_path / "runs" / replace(run, **of).folder_name() / "metrics.json"
        path.parent.mkdir(parents=True)
        content = {"config": {}, "data": "", "train_seconds": seconds}
        content |= {"provenance": {"device": device}}
        path.write_text(json.dumps(content))

    keep(1.0, "cuda (H100)", seed=7)
    keep(2.0, trial=2)
    assert clock.recorded_seconds(run) is None, "a trial is another training set"
    for seed, seconds in enumerate((14.0, 12.5, 13.0)):
        keep(seconds, seed=seed)
    assert clock.recorded_seconds(run) == clock.recorded_seconds(replace(run, seed=5)) == 12.5


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.4, "9 s"), (200, "3 min 20 s"), (7512, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert clock.duration(seconds) == text


def test_time_left_goes_by_all_that_was_measured(monkeypatch):
    runs = [configure("baselines", "two-stream", "smoke", seed=seed) for seed in range(4)]
    values = dict(zip([r.folder_name() for r in runs], (100, 100, 300, 200), strict=True))
    monkeypatch.setattr(clock, "expected_seconds", lambda runs: dict(values))
    found = clock.Clock(runs, workers=2)
    found.done(runs[0], 200)
    found.done(runs[1], 100)
    assert found.left() == ", about 6 min 15 s left"


def test_a_run_shorter_than_what_is_shared_costs_nothing_and_never_less(monkeypatch):
    monkeypatch.setattr(clock, "recorded_seconds", lambda run: 100.0)
    whole = (configure("mutual_prediction", v) for v in ("fgfl-cmimpl", "alpha-1"))
    runs = [replace(run, epochs=2) for run in whole]  # which both share
    found = clock.expected_seconds(runs).values()
    assert [seconds - clock.BESIDE for seconds in found] == [100, 0]

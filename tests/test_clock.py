"""How long is left, from records with known seconds."""

import json

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
    shared = 190 * (1 - 11 / 19)  # epochs that the full method has trained
    assert found == pytest.approx([100, 300, 200, 970 / 5, 190, shared, 190])
    monkeypatch.setattr(clock, "recorded_seconds", lambda run: None)
    assert clock.expected_seconds(runs) == {}


@pytest.mark.parametrize(("device", "seconds"), [("cpu (x86_64)", 12.5), ("cuda (H100)", None)])
def test_what_a_gpu_took_tells_nothing_of_other_machines(device, seconds, monkeypatch, tmp_path):
    run = configure("baselines", "two-stream")
    monkeypatch.setattr(clock, "REPORTED", tmp_path)
    assert clock.recorded_seconds(run) is None
    content = {"config": run.to_dict(), "data": "", "train_seconds": 12.5}
    path = tmp_path / "runs" / run.folder_name() / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content | {"provenance": {"device": device}}))
    assert clock.recorded_seconds(run) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.4, "9 s"), (200, "3 min 20 s"), (7512, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert clock.duration(seconds) == text

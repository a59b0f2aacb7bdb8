"""The sampler: who is drawn, how often, and the same again after a resume."""

from threading import Event

import numpy as np
import pandas as pd
import pytest
import torch

from reid_core.data import DatasetError
from reid_core.data.augment import Augment, normalise
from reid_core.data.batches import CrossModalSampler, ahead, training_batches


def make_table(counts: dict[int, tuple[int, int]], first: int = 0) -> pd.DataFrame:
    """An index of (visible, infrared) pictures for each identity; its labels start at ``first``."""
    rows = [
        (identity, modality)
        for identity, both in counts.items()
        for modality, n in zip(("visible", "infrared"), both, strict=True)
        for _ in range(n)
    ]
    table = pd.DataFrame(rows, columns=["identity", "modality"])
    return table.set_axis(range(first, first + len(rows)))


# 30 has fewer than three infrared pictures, 40 no visible and 50 no infrared ones
TABLE = make_table({10: (5, 4), 20: (3, 6), 30: (4, 2), 40: (0, 5), 50: (7, 0), 60: (9, 3)}, 100)


def draws(sampler: CrossModalSampler, number: int) -> list[list[list[int]]]:
    return [[array.tolist() for array in batch] for batch in sampler.epoch(number)]


def test_batches_are_p_identities_times_k_pictures_in_both_modalities():
    sampler = CrossModalSampler(TABLE, 3, 3, seed=0, steps=50)
    assert sampler.classes == [10, 20, 30, 60]
    batches = list(sampler.epoch(0))
    assert len(batches) == sampler.steps == 50
    for visible, infrared, classes in batches:
        assert len(visible) == len(infrared) == len(classes) == 9
        assert (np.unique(classes, return_counts=True)[1] == 3).all()  # three distinct, K of each
        identities = np.array(sampler.classes)[classes]
        for rows, modality in ((visible, "visible"), (infrared, "infrared")):
            assert (TABLE.loc[rows, "identity"] == identities).all()
            assert (TABLE.loc[rows, "modality"] == modality).all()


def test_pictures_repeat_only_where_they_must():
    sampler = CrossModalSampler(TABLE, 4, 3, seed=0, steps=50)
    for visible, infrared, classes in sampler.epoch(0):
        assert len(set(visible)) == 12
        for number in range(4):
            rows = infrared[classes == number]
            assert len(set(rows)) == 3 or sampler.classes[number] == 30


def test_every_complete_identity_and_all_its_pictures_come_up():
    sampler = CrossModalSampler(TABLE, 2, 3, seed=0, steps=100)
    seen = {row for visible, infrared, _ in sampler.epoch(0) for row in (*visible, *infrared)}
    assert seen == set(TABLE.index[~TABLE.identity.isin([40, 50])])


def test_visible_and_infrared_are_drawn_independently():
    table = make_table(dict.fromkeys(range(4), (8, 8)))
    visible, infrared, _ = next(CrossModalSampler(table, 4, 4, seed=0).epoch(0))
    assert (visible % 8).tolist() != (infrared % 8).tolist()


def test_an_epoch_depends_on_seed_and_number_alone():
    sampler = CrossModalSampler(TABLE, 3, 2, seed=5, steps=4)
    history = [draws(sampler, number) for number in range(4)]
    assert len({str(epoch) for epoch in history}) == 4
    resumed = CrossModalSampler(TABLE, 3, 2, seed=5, steps=4)
    next(resumed.epoch(0))  # an epoch that was killed midway
    np.random.seed(0)  # noqa: NPY002 - the global generator has no say
    assert [draws(resumed, number) for number in (3, 2)] == [history[3], history[2]]
    assert draws(CrossModalSampler(TABLE, 3, 2, seed=6, steps=4), 0) != history[0]


def test_report_of_identities_that_are_short_of_pictures():
    report = CrossModalSampler(TABLE, 3, 3, seed=0).report
    assert list(report.columns) == ["identity", "visible", "infrared", "handling"]
    assert [tuple(row) for row in report.itertuples(index=False)] == [
        (30, 4, 2, "pictures repeat"),
        (40, 0, 5, "left out"),
        (50, 7, 0, "left out"),
    ]
    assert CrossModalSampler(make_table({1: (2, 2), 2: (3, 2)}), 2, 2, seed=0).report.empty


@pytest.mark.parametrize(
    "counts, found",
    [
        ({1: (4, 4), 2: (4, 4), 3: (4, 0)}, "has 2 .and 1 in one modality only"),
        ({1: (4, 0), 2: (4, 0)}, "has 0 .and 2 in one modality only"),
        ({}, "has 0 .and 0"),
    ],
)
def test_too_few_identities(counts, found):
    with pytest.raises(DatasetError, match=f"batch needs 3 .*{found}.*Lower `identities`"):
        CrossModalSampler(make_table(counts), 3, 1, seed=0)


def test_steps():
    table = make_table({1: (10, 30), 2: (10, 34), 3: (500, 0)})  # 64 infrared of complete ones
    assert CrossModalSampler(table, 2, 4, seed=0).steps == 8
    assert CrossModalSampler(table, 2, 4, seed=0, steps=3).steps == 3
    assert CrossModalSampler(make_table({1: (1, 1)}), 1, 9, seed=0).steps == 1


class Numbered:
    """Stands for packed pixels: every pixel of a picture is its row's number."""

    def take(self, rows: np.ndarray) -> torch.Tensor:
        numbers = torch.as_tensor(rows, dtype=torch.uint8)
        return numbers[:, None, None, None].expand(-1, 8, 4, 3).clone()


def test_training_batches_follow_the_sampler():
    sampler = CrossModalSampler(TABLE, 3, 2, seed=1, steps=2)
    plain = Augment(pad=0, flip=0)
    batches = training_batches(Numbered(), sampler, plain, 4, torch.device("cpu"))
    for batch, (visible, infrared, classes) in zip(batches, sampler.epoch(4), strict=True):
        assert batch.visible.equal(normalise(Numbered().take(visible)))
        assert batch.infrared.equal(normalise(Numbered().take(infrared)))
        assert batch.identity.dtype == torch.int64
        assert batch.identity.tolist() == classes.tolist()


def test_training_batches_are_the_same_after_a_resume():
    sampler = CrossModalSampler(TABLE, 3, 2, seed=1, steps=2)
    augment = Augment(pad=2, erase=0.5, grayscale=0.5, trivial=True)

    def epoch(number: int) -> torch.Tensor:
        batches = training_batches(Numbered(), sampler, augment, number, torch.device("cpu"))
        return torch.stack([torch.stack([b.visible, b.infrared]) for b in batches])

    first, second = epoch(0), epoch(1)
    torch.manual_seed(9)
    assert epoch(1).equal(second)
    assert not first.equal(second)


class Same:
    """Stands for a sampler that draws the same rows in every epoch."""

    def __init__(self, seed: int):
        self.seed = seed

    def epoch(self, number: int):
        yield np.arange(4), np.arange(4), np.arange(4)


def test_augmentation_differs_between_epochs_and_seeds():
    seen = set()
    for seed, number in ((0, 0), (0, 1), (1, 0), (0, 0)):
        cpu = torch.device("cpu")
        (batch,) = training_batches(Numbered(), Same(seed), Augment(pad=2), number, cpu)
        seen.add(batch.visible.numpy().tobytes())
    assert len(seen) == 3


def test_ahead_prepares_one_batch_while_one_is_in_use():
    begun = [Event() for _ in range(5)]

    def source():
        for number, event in enumerate(begun):
            event.set()
            yield number

    batches = ahead(source())
    assert next(batches) == 0
    assert begun[1].wait(10)
    assert not begun[2].wait(0.1)  # and no more than one
    assert list(batches) == [1, 2, 3, 4]


def test_ahead_hands_on_what_went_wrong_after_what_was_right():
    def source():
        yield 1
        raise DatasetError("the disk is gone")

    batches = ahead(source())
    assert next(batches) == 1
    with pytest.raises(DatasetError, match="the disk is gone"):
        next(batches)


def test_ahead_ends_with_who_takes_from_it():
    taken = iter(range(1000))
    batches = ahead(taken)
    assert [next(batches), next(batches)] == [0, 1]
    batches.close()
    assert next(taken) == 3, "2 was on its way, and nothing after it"


@pytest.mark.parametrize(
    ("device", "trivial", "threaded"),
    [("cuda:0", False, True), ("cuda:0", True, False), ("cpu", False, False)],
)
def test_who_gets_batches_from_a_thread(device, trivial, threaded, monkeypatch):
    monkeypatch.setattr("reid_core.data.batches.ahead", lambda batches: "from a thread")
    sampler = CrossModalSampler(TABLE, 3, 2, seed=1, steps=2)
    augment = Augment(trivial=trivial)
    found = training_batches(Numbered(), sampler, augment, 0, torch.device(device))
    assert (found == "from a thread") == threaded


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_thread_changes_nothing():
    sampler, augment = CrossModalSampler(TABLE, 3, 2, seed=1, steps=5), Augment(grayscale=0.5)
    given = (Numbered(), sampler, augment, 0, torch.device("cuda", 0))
    pairs = zip(training_batches(*given), training_batches(*given, thread=False), strict=True)
    for one, other in pairs:
        assert one.visible.equal(other.visible) and one.infrared.equal(other.infrared)


def test_seeds_share_no_epoch():
    one, other = (CrossModalSampler(TABLE, 3, 2, seed=s, steps=4) for s in (0, 1))
    assert draws(one, 1) != draws(other, 0), "the mean over seeds would be of nearly the same run"


def test_infrared_batches_never_turn_gray():
    class Coloured(Numbered):
        def take(self, rows):
            return super().take(rows) + torch.tensor([0, 9, 40], dtype=torch.uint8)

    sampler = CrossModalSampler(TABLE, 3, 2, seed=1, steps=2)
    cpu = torch.device("cpu")
    found, bare = (
        list(training_batches(Coloured(), sampler, Augment(0, 0.0, grayscale=g), 0, cpu))
        for g in (1.0, 0.0)
    )
    for gray, coloured in zip(found, bare, strict=True):
        assert gray.infrared.equal(coloured.infrared)
        assert not gray.visible.equal(coloured.visible)


def test_steps_are_whole_batches():
    assert CrossModalSampler(make_table({1: (10, 30), 2: (10, 33)}), 2, 4, seed=0).steps == 7

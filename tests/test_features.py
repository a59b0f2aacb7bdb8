"""Features: each picture through its own branch, in the index's order; then every protocol."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from reid_core import records, train
from reid_core.data.augment import normalise
from reid_core.data.images import pack
from reid_core.data.sysu import read_sysu
from reid_core.methods import build, configure
from reid_core.retrieval import features as module
from reid_core.retrieval.features import accuracy, evaluate_all, extract, measure, settings_of
from reid_core.train import fit

MEASURES = {"rank1", "rank5", "rank10", "rank20", "mAP", "mINP"}


class Telling(nn.Module):
    """Embeds a picture as its mean colour and the branch it came through."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def embed(self, images: torch.Tensor, modality: str) -> torch.Tensor:
        self.sizes.append(len(images))
        branch = torch.full((len(images), 1), float(modality == "infrared"))
        return torch.cat([images.mean(dim=(2, 3)), branch], dim=1)


@pytest.fixture(scope="module")
def index(tiny_dolls) -> pd.DataFrame:
    return read_sysu(tiny_dolls)


@pytest.fixture(scope="module")
def pixels(tiny_dolls, index):
    return pack(index, tiny_dolls, 48, 24)


def test_rows_keep_their_order_and_take_their_branch(index, pixels):
    rows = np.random.default_rng(0).permutation(len(index))[:37]
    rows = np.append(rows, rows[:2])  # a row may be asked twice
    modalities = index["modality"].to_numpy()[rows]
    model = Telling().train()
    found = extract(model, pixels, rows, modalities, precision="fp32", batch_size=8)
    assert found.dtype == np.float32 and found.shape == (39, 4)
    assert not model.training and sum(model.sizes) == 39 and max(model.sizes) == 8
    for place, row in enumerate(rows):
        colour = normalise(pixels.take(np.array([row]))).mean(dim=(0, 2, 3)).numpy()
        np.testing.assert_allclose(found[place, :3], colour, rtol=1e-4, atol=1e-5)
        assert found[place, 3] == (index["modality"].iloc[row] == "infrared")


@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-5), ("bf16", 2e-2)])
def test_batch_size_has_no_influence(index, pixels, precision, tolerance):
    torch.manual_seed(0)
    model = build(configure("baselines", "two-stream", "smoke"), 8)
    rows = np.arange(0, len(index), 5)
    arguments = (model, pixels, rows, index["modality"].to_numpy()[rows])
    whole, single, odd = (
        extract(*arguments, precision=precision, batch_size=size) for size in (128, 1, 7)
    )
    assert np.abs(whole).max() > 0.1
    np.testing.assert_allclose(single, whole, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(odd, whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("modalities", [[], ["visible", "thermal"]])
def test_wrong_modalities_are_refused(pixels, modalities):
    rows = np.arange(len(modalities))
    with pytest.raises(ValueError, match=r"modalities: found \[.*expected some 'visible'"):
        extract(Telling(), pixels, rows, np.array(modalities, object))


def test_settings_of_each_dataset(tmp_path, tiny_dolls):
    for dataset in ("regdb", "paperdolls-regdb", "llcm"):
        settings = settings_of(dataset, tmp_path)
        assert [s["mode"] for s in settings] == ["visible-to-infrared", "infrared-to-visible"]
        assert {s["protocol"] for s in settings} == {dataset.removeprefix("paperdolls-")}
    drawn = [{"protocol": "sysu", "mode": m, "gallery": "agw"} for m in ("all", "indoor")]
    assert settings_of("sysu", tmp_path) == drawn  # without rand_perm_cam.mat
    for dataset in ("sysu", "paperdolls-sysu", "paperdolls-full"):
        settings = settings_of(dataset, tiny_dolls)
        assert settings[:2] == drawn
        official = [(s["gallery"], s["shots"], s["mode"]) for s in settings[2:]]
        assert official == [("official", n, m) for n in (1, 10) for m in ("all", "indoor")]


def test_evaluate_all(index, tiny_dolls):
    """Features that tell the identity find it always; the keys of every row are the same."""
    test = index[index["split"] == "test"]
    perfect = np.eye(100, dtype=np.float32)[test["identity"].to_numpy()]
    settings = settings_of("paperdolls-sysu", tiny_dolls)
    rows = evaluate_all(perfect, test, settings)
    assert len(rows) == len(settings) == 6
    for row, asked in zip(rows, settings, strict=True):
        assert row["protocol"] == "sysu" and row["shots"] == asked.get("shots", 1)
        assert (row["mode"], row["gallery"]) == (asked["mode"], asked["gallery"])
        assert row["rank1"] == row["mAP"] == row["mINP"] == 1.0
        assert row["rank1_std"] == row["mAP_std"] == 0.0
        assert row.keys() >= MEASURES


@pytest.mark.parametrize("split", ["test", "val"])
def test_measure_keeps_features_in_the_order_of_its_split(split, monkeypatch, tmp_path, tiny_dolls):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    run = configure("baselines", "two-stream", "smoke", {"epochs": 1, "evaluate_on": split})
    trained = fit(run, tiny_dolls)
    content = measure(trained)
    rows = trained.index[trained.index["split"] == split]
    kept = np.load(trained.folder / "features.npy")
    assert len(kept) == len(rows) > 0
    modalities = rows["modality"].to_numpy()
    again = extract(trained.model, trained.pixels, rows.index.to_numpy(), modalities)
    np.testing.assert_array_equal(kept, again)
    assert content == records.finished(run)
    assert content["train_seconds"] == pytest.approx(trained.history["seconds"].sum(), abs=0.06)


def test_features_are_written_whole_or_not_at_all(monkeypatch, tmp_path, tiny_dolls):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    trained = fit(configure("baselines", "two-stream", "smoke", {"epochs": 1}), tiny_dolls)

    def half(file, array):
        content = io.BytesIO()
        np.lib.format.write_array(content, array)
        file.write(content.getvalue()[:100])
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", half)
        with pytest.raises(OSError, match="No space"):
            measure(trained)
    assert not (trained.folder / "features.npy").exists()
    assert records.finished(trained.run) is None
    measure(trained)
    assert np.load(trained.folder / "features.npy").shape[1] == 256


def test_killed_between_features_and_metrics(monkeypatch, tmp_path, tiny_dolls):
    """The next start measures again, and from the trained weights the same."""
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    run = configure("baselines", "two-stream", "smoke", {"epochs": 1})

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate_all", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(fit(run, tiny_dolls))
    file = records.folder_of(run) / "features.npy"
    before = file.read_bytes()
    assert records.finished(run) is None
    content = measure(fit(run, tiny_dolls))
    assert file.read_bytes() == before
    with monkeypatch.context() as patch:  # finished: nothing is done again
        patch.setattr(module, "extract", killed)
        assert measure(fit(run, tiny_dolls)) == content


def test_what_watches_a_training_is_not_in_its_seconds(monkeypatch, tmp_path, tiny_dolls):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    now = [0.0]

    def watched(trained):
        now[0] += 1000
        return {}

    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    trained = fit(configure("baselines", "two-stream", "smoke"), tiny_dolls, after_epoch=watched)
    assert now[0] > 0 and set(trained.history["seconds"]) == {0}


def test_accuracy_after_every_epoch_changes_nothing(monkeypatch, tmp_path, tiny_dolls):
    """The last epoch's is the run's result, and the run's weights are to the bit those of a run
    that nobody watched. A run that was watched from its second epoch on has no value before."""
    run = configure("baselines", "two-stream", "smoke", {"erase": 0.5, "grayscale": 0.5})
    results = {}
    for name, watched in (("plain", None), ("watched", accuracy)):
        monkeypatch.setenv("REID_RESULTS", str(tmp_path / name))
        results[name] = fit(run, tiny_dolls, after_epoch=watched)
    plain, watched = results["plain"], results["watched"]
    state = watched.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in plain.model.state_dict().items())
    added = ["rank1", "mAP"]
    assert list(watched.history) == [*plain.history, *added]
    columns = plain.history.columns.drop("seconds")
    pd.testing.assert_frame_equal(plain.history[columns], watched.history[columns])
    metrics = measure(watched)
    last = {m: metrics["results"][0][m] for m in added}
    assert watched.history.iloc[-1][added].to_dict() == pytest.approx(last)
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "late"))

    def unwatched_then_killed(trained):
        if len(trained.history) == 2:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        fit(run, tiny_dolls, after_epoch=unwatched_then_killed)
    late = fit(run, tiny_dolls, after_epoch=accuracy)
    assert late.history["rank1"].isna().tolist() == [True, False]
    assert all(torch.equal(v, state[k]) for k, v in late.model.state_dict().items())

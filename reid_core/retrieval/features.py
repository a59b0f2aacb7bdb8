"""Features of a dataset's images, and every protocol measured on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.io import loadmat
from torch import nn

from reid_core import health, records
from reid_core.data.augment import normalise
from reid_core.data.datasets import layout
from reid_core.data.images import PackedImages
from reid_core.data.index import DatasetError
from reid_core.paths import atomic_file, shown
from reid_core.precision import autocast
from reid_core.retrieval.candidates import LABELS, MODES
from reid_core.retrieval.protocols import evaluate
from reid_core.retrieval.rerank import K1, K2, RERANKED, WEIGHT
from reid_core.train import Trained


@torch.inference_mode()
def extract(
    model: nn.Module,
    pixels: PackedImages,
    rows: np.ndarray,
    modalities: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    precision: str = "bf16",
    batch_size: int = 128,
) -> np.ndarray:
    """Features (n, D) float32 of the pictures at ``rows``, in their order, each through the branch
    of its own modality (``modalities``, (n,) of "visible" and "infrared").

    Raises
    ------
    ValueError
        There are no rows, or a modality is neither of the two.
    """
    if len(rows) == 0 or not np.isin(modalities, ("visible", "infrared")).all():
        found = sorted(set(np.asarray(modalities).tolist()))
        raise ValueError(f"modalities: found {found}, expected some 'visible' or 'infrared'.")
    device = torch.device(device)
    model.eval()
    features: np.ndarray | None = None
    for modality in ("visible", "infrared"):
        places = np.flatnonzero(modalities == modality)
        for start in range(0, len(places), batch_size):
            chosen = places[start : start + batch_size]
            images = normalise(pixels.take(rows[chosen]).to(device))
            with autocast(device, precision):
                embedded = model.embed(images, modality).float().cpu().numpy()
            if features is None:
                features = np.empty((len(rows), embedded.shape[1]), np.float32)
            features[chosen] = embedded
    return features


def settings_of(dataset: str, root: Path) -> list[dict[str, Any]]:
    """The evaluations that a dataset's papers report: keyword arguments of ``evaluate``.

    SYSU-MM01's official gallery needs its ``exp/rand_perm_cam.mat``; where the file is absent only
    the ``agw`` gallery is measured.

    Raises
    ------
    DatasetError
        That file is damaged.
    """
    protocol = layout(dataset)
    if protocol != "sysu":
        return [{"protocol": protocol, "mode": mode} for mode in MODES[protocol]]
    settings = [{"protocol": "sysu", "mode": m, "gallery": "agw"} for m in MODES[protocol]]
    path = root / "exp" / "rand_perm_cam.mat"
    if path.exists():
        official = {"protocol": "sysu", "gallery": "official", "permutations": _permutations(path)}
        for shots in (1, 10):
            settings += [{**official, "mode": m, "shots": shots} for m in MODES[protocol]]
    return settings


def _permutations(path: Path) -> dict[str, Any]:
    try:
        return loadmat(path)
    except Exception as error:  # a damaged .mat makes scipy raise nearly anything
        raise DatasetError(
            f"{shown(path)}: unreadable ({error}). Copy it again from the dataset and start once "
            "more: what is trained is kept."
        ) from None


def evaluate_all(
    features: np.ndarray, index: pd.DataFrame, settings: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One dict for each of ``settings``: its protocol, mode, gallery and shots, the means of the
    measures, as fractions, their spread over the trials (``rank1_std``, ``mAP_std``) and the curve
    ``cmc`` at ranks 1 to 20. A re-ranked one says so in its mode ("all, re-ranked"), which every
    table shows or selects by, and has in ``rerank`` with which parameters."""
    arrays = [index[column].to_numpy() for column in LABELS]
    rows = []
    for chosen in settings:
        result = evaluate(features, *arrays, **chosen)
        spread = {f"{m}_std": float(result.trials[m].std(ddof=0)) for m in ("rank1", "mAP")}
        shown = {key: getattr(result, key) for key in ("protocol", "mode", "gallery", "shots")}
        if result.rerank:
            shown["mode"] += RERANKED
            shown["rerank"] = {"k1": K1, "k2": K2, "weight": WEIGHT}
        rows.append(shown | result.mean | spread | {"cmc": result.cmc.tolist()})
    return rows


def measure(trained: Trained) -> dict[str, Any]:
    """Extracts the features of the evaluation split once, keeps them in ``features.npy``, measures
    every protocol on them and finishes the run. Returns the content of ``metrics.json``. A run with
    ``rerank`` has each result twice, plain and then re-ranked.

    Raises
    ------
    DatasetError
        The dataset does not hold what its protocol asks for.
    """
    already = records.finished(trained.run)
    if already is not None:
        return already
    index = evaluation_rows(trained)
    features = _features(trained, index)
    with atomic_file(trained.folder / "features.npy") as file:
        np.save(file, features)
    settings = settings_of(trained.run.dataset, trained.root)
    if trained.run.rerank:
        settings = [{**plain, "rerank": rerank} for plain in settings for rerank in (False, True)]
    try:
        results = evaluate_all(features, index, settings)
    except ValueError as error:  # of a protocol, which knows no folder
        raise DatasetError(
            f"{shown(trained.root)}: cannot be measured: {error}. What is trained is kept; put the "
            "dataset right and start once more."
        ) from error
    seconds = round(float(trained.history["seconds"].sum()), 1)
    ill = health.report(trained.history, trained.model.trivial)
    return records.finish(trained.run, results, train_seconds=seconds, health=ill)


def accuracy(trained: Trained) -> dict[str, float]:
    """``rank1`` and ``mAP`` (fractions) of the evaluation split, under the first protocol that its
    dataset's papers report: what ``fit`` takes as ``after_epoch`` to draw how fast a method
    converges. With ``evaluate_on: test`` that is to look at the test identities meanwhile, as the
    papers' figures do: no epoch may be chosen by it."""
    index = evaluation_rows(trained)
    settings = settings_of(trained.run.dataset, trained.root)[:1]
    (found,) = evaluate_all(_features(trained, index), index, settings)
    return {measure: found[measure] for measure in ("rank1", "mAP")}


def kept_features(trained: Trained) -> np.ndarray:
    """A measured run's features (N, D), in the order of ``evaluation_rows``. Raises as
    `read_features` does."""
    return read_features(trained.folder / "features.npy", len(evaluation_rows(trained)))


def read_features(path: Path, count: int) -> np.ndarray:
    """A run's ``features.npy`` (N, D), of ``count`` pictures.

    Raises
    ------
    RunError
        It is missing, damaged or of other pictures.
    """
    try:
        features = np.lib.format.open_memmap(path, mode="r")  # never unpickles
        if features.ndim != 2 or len(features) != count:
            raise ValueError(f"shape {features.shape}, expected {count} rows")
        return np.array(features)
    except Exception as error:  # of damaged bytes numpy may make any
        raise records.RunError(
            f"{shown(path)}: missing or damaged ({error}). Delete the metrics.json beside it and "
            "measure the run again."
        ) from None


def _features(trained: Trained, index: pd.DataFrame) -> np.ndarray:
    return extract(
        trained.model,
        trained.pixels,
        index.index.to_numpy(),
        index["modality"].to_numpy(),
        device=trained.device,
        precision=trained.run.precision,
    )


def evaluation_rows(trained: Trained) -> pd.DataFrame:
    """The index's rows that the run is measured on; ``features.npy`` follows their order."""
    return trained.index[trained.index["split"] == trained.run.evaluate_on]

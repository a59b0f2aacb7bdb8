"""Ranked lists of a trained run, with the pictures to look at."""

from typing import NamedTuple

import numpy as np

from reid_core.data.images import decode
from reid_core.retrieval.candidates import LABELS
from reid_core.retrieval.features import evaluation_rows, kept_features, settings_of
from reid_core.retrieval.protocols import top_matches
from reid_core.train import Trained

HEIGHT, WIDTH = 192, 80  # pixels of a picture in a figure


class Lists(NamedTuple):
    """Queries with their best matches; rows count the run's evaluation pictures."""

    mode: str
    pictures: dict[int, np.ndarray]  # row -> (H, W, 3) uint8
    queries: np.ndarray  # (Q,) rows
    matches: np.ndarray  # (Q, k) rows, −1 for none
    identities: np.ndarray  # (N,)
    cameras: np.ndarray  # (N,)


def best_matches(trained: Trained, queries: int = 6, seed: int = 0, k: int = 10) -> Lists:
    """The ``k`` best matches of some ``queries`` of a measured run, in the first gallery of its
    dataset's first protocol. The same ``seed`` chooses the same queries for every run on a dataset.

    Queries whose person no picture of the other modality shows are not chosen.
    """
    index = evaluation_rows(trained)
    features = kept_features(trained)
    labels = [index[column].to_numpy() for column in LABELS]
    settings = settings_of(trained.run.dataset, trained.root)[0]
    side = "visible" if settings["mode"].startswith("visible") else "infrared"
    rows = np.flatnonzero(labels[3] == side)
    answers = set(labels[0][labels[3] != side])
    rows = rows[[identity in answers for identity in labels[0][rows]]]
    count = min(queries, len(rows))
    chosen = np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))
    matches = top_matches(features, *labels, **settings, queries=chosen, k=k)
    needed = np.unique(np.append(chosen, matches[matches >= 0]))
    paths = index["path"].to_numpy()
    pictures = {int(r): decode(trained.root / paths[r], HEIGHT, WIDTH) for r in needed}
    return Lists(settings["mode"], pictures, chosen, matches, labels[0], labels[1])

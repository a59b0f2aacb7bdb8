"""The evaluator and re-ranking beside loops that go picture by picture, as definitions and
most released code do, and how they grow."""

import time
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd

from reid_core.benchmarks.timing import seconds
from reid_core.data.inventory import Inventory
from reid_core.data.sysu import CAMERAS
from reid_core.retrieval import evaluate
from reid_core.retrieval.candidates import TestSet, prepare
from reid_core.retrieval.metrics import CUTOFFS, METRICS, unit_rows
from reid_core.retrieval.rerank import K1, K2, WEIGHT, rerank

Labels = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def labels_of(inventory: Inventory, identities: list[int]) -> Labels:
    """Identity, camera, frame and modality of every image that SYSU-MM01's ``inventory`` counts of
    ``identities``."""
    seen = ((i, c, images) for i in identities for c, images in inventory[i].items())
    rows = [(i, c, n, CAMERAS[c][0]) for i, c, images in seen for n in range(1, images + 1)]
    identity, camera, frame, modality = map(np.array, zip(*rows, strict=True))
    return identity, camera, frame, modality


def stand_in(
    identity: np.ndarray, dimension: int, noise: float = 5.0, dtype: Any = np.float64
) -> np.ndarray:
    """Features (n, dimension) that stand in for a network's: centre of the person + noise."""
    rng = np.random.default_rng(0)
    number = np.unique(identity, return_inverse=True)[1]
    centre = rng.standard_normal((number.max() + 1, dimension), dtype)
    return centre[number] + dtype(noise) * rng.standard_normal((len(number), dimension), dtype)


def naive_evaluate(test: TestSet) -> np.ndarray:
    """`metrics.METRICS` of each trial's gallery, (trials, 6), query by query."""
    identity, camera = test.images.identity.to_numpy(), test.images.camera.to_numpy()
    table = []
    for rows in test.galleries:
        scores = []
        features = test.features[rows]
        for query in test.queries.index:
            listed = rows[np.argsort(-(features @ test.features[query]), kind="stable")]
            if test.protocol == "sysu" and camera[query] == 3:
                listed = listed[camera[listed] != 2]
            if test.protocol == "llcm":
                same = (identity[listed] == identity[query]) & (camera[listed] == camera[query])
                listed = listed[~same]
            shown = identity[listed]
            hits = np.flatnonzero(shown == identity[query]) + 1
            if len(hits):
                people = len(set(shown[: hits[0]].tolist()))
                place = hits[0] if test.protocol == "regdb" else people
                precision = np.arange(1, len(hits) + 1) / hits
                scores.append(
                    [*(place <= k for k in CUTOFFS), precision.mean(), len(hits) / hits[-1]]
                )
        table.append(np.mean(scores, axis=0))
    return np.array(table)


def naive_rerank(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """`retrieval.rerank.rerank` (Q, G), without pictures that do not exist for each other."""
    every = np.concatenate([queries, gallery])
    d = np.maximum(2 - 2 * every @ every.T, 0)
    np.fill_diagonal(d, 0)
    d /= d.max(axis=1, keepdims=True)
    order = np.argsort(d, axis=1, kind="stable")

    def reciprocal(p: int, k: int) -> set[int]:
        return {g for g in order[p, : k + 1].tolist() if p in order[g, : k + 1]}

    encoded = np.zeros_like(d)
    for p, row in enumerate(encoded):
        near = reciprocal(p, K1)
        members = set(near)
        for c in near:
            others = reciprocal(c, round(K1 / 2))
            if 3 * len(others & near) > 2 * len(others):
                members |= others
        chosen = sorted(members)
        row[chosen] = np.exp(-d[p, chosen]) / np.exp(-d[p, chosen]).sum()
    mean = np.stack([encoded[order[p, :K2]].mean(axis=0) for p in range(len(d))])
    jaccard = np.empty((len(queries), len(gallery)))
    for q in range(len(queries)):
        shared = np.minimum(mean[q], mean[len(queries) :])
        jaccard[q] = 1 - shared.sum(axis=1) / (2 - shared.sum(axis=1))
    return (1 - WEIGHT) * jaccard + WEIGHT * d[: len(queries), len(queries) :]


def evaluation(
    features: np.ndarray, labels: Labels, queries: int, rounds: int, **settings: Any
) -> dict[str, float]:
    """``seconds`` of ``evaluate`` and of the ``naive`` loop, and how far their measures lie apart
    (``difference``). About ``queries`` queries are ranked by the loop, and both agree on these; as
    no query knows another, its seconds are multiplied up. Checking and scaling the features is part
    of both; with the product of what is compared, all queries at once, it takes ``unranked``
    seconds: no evaluator that compares in this precision is faster."""
    infrared = labels[3] == "infrared"
    every = max(1, infrared.sum() // queries)
    few = ~infrared
    few[np.flatnonzero(infrared)[::every]] = True
    some = features[few], *(column[few] for column in labels)
    test, whole = prepare(*some, **settings), prepare(features, *labels, **settings)
    compared = np.unique(np.concatenate(whole.galleries))
    slow = naive_evaluate(test)
    works = {
        "seconds": lambda: evaluate(features, *labels, **settings),
        "naive": lambda: naive_evaluate(test),
        "prepare": lambda: prepare(features, *labels, **settings),
        "unranked": lambda: whole.features[whole.queries.index] @ whole.features[compared].T,
    }
    found = seconds(works, rounds)
    found["naive"] *= infrared.sum() / len(test.queries)
    prepared = found.pop("prepare")
    found["naive"] += prepared
    found["unranked"] += prepared
    apart = np.abs(evaluate(*some, **settings).trials[list(METRICS)].to_numpy() - slow).max()
    return found.to_dict() | {"difference": apart}


def reranking(queries: int, gallery: int, people: int, rounds: int) -> dict[str, float]:
    """As `evaluation`, of distances."""
    who = np.concatenate([np.arange(queries) % people, np.arange(gallery) % people])
    pair = np.split(unit_rows(stand_in(who, 64, 1.1)), [queries])
    started = time.perf_counter()
    slow = naive_rerank(*pair)
    slow_seconds = time.perf_counter() - started
    ours = seconds({"ours": lambda: rerank(*pair)}, rounds)["ours"]
    return {
        "seconds": ours,
        "naive": slow_seconds,
        "difference": np.abs(rerank(*pair) - slow).max(),
    }


def growth(queries: int, sizes: list[int]) -> pd.DataFrame:
    """Of galleries of some ``sizes``: ``seconds`` of an evaluation in float32, the peak of what it
    allocates (``MiB``), and what the ``whole`` similarity matrix would take."""
    rows = []
    for size in sizes:
        who = np.concatenate([np.arange(queries) % 206, np.arange(size) % 206])
        sides = np.repeat(["infrared", "visible"], [queries, size])
        call = stand_in(who, 512, dtype=np.float32), who, who, np.arange(len(who)), sides
        tracemalloc.start()
        started = time.perf_counter()
        evaluate(*call, protocol="regdb", mode="infrared-to-visible")
        spent, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        whole = 4 * queries * size
        rows.append([size, spent, peak / 2**20, whole / 2**20])
    return pd.DataFrame(rows, columns=["size", "seconds", "MiB", "whole"])

"""Retrieval picture by picture, as its papers' words say it and most released code does it: what
notebook 50 times the evaluator against. numpy within a query, Python from query to query."""

import numpy as np

from reid_core.retrieval.candidates import TestSet, ignored
from reid_core.retrieval.metrics import CUTOFFS
from reid_core.retrieval.rerank import K1, K2, WEIGHT


def evaluate(test: TestSet) -> np.ndarray:
    """`metrics.METRICS` of each trial's gallery, (trials, 6), for SYSU-MM01 and RegDB, where what
    is ignored depends on the query's camera alone."""
    table = []
    for rows in test.galleries:
        scores = []
        gallery, identity = test.images.loc[rows], test.images.identity.to_numpy()
        features = test.features[rows]
        absent = {
            camera: ignored(test.protocol, test.queries[test.queries.camera == camera][:1], gallery)
            for camera in test.queries.camera.unique()
        }
        for query, camera in zip(test.queries.index, test.queries.camera, strict=True):
            order = np.argsort(-(features @ test.features[query]), kind="stable")
            listed = identity[rows[order[~absent[camera][0][order]]]]
            hits = np.flatnonzero(listed == identity[query]) + 1
            if len(hits):
                people = len(set(listed[: hits[0]].tolist()))
                place = hits[0] if test.protocol == "regdb" else people
                precision = np.arange(1, len(hits) + 1) / hits
                scores.append(
                    [*(place <= k for k in CUTOFFS), precision.mean(), len(hits) / hits[-1]]
                )
        table.append(np.mean(scores, axis=0))
    return np.array(table)


def rerank(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
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

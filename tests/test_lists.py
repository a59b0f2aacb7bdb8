"""Ranked lists of a run: the same queries for every run, ranked as the evaluation ranks."""

from pathlib import Path

import numpy as np
import pytest

from reid_core.data.datasets import obtain
from reid_core.methods import configure
from reid_core.retrieval.features import evaluation_rows, measure
from reid_core.retrieval.lists import best_matches
from reid_core.train import Trained, fit


@pytest.fixture(scope="module", params=["paperdolls-tiny", "paperdolls-tiny-regdb"])
def trained(request: pytest.FixtureRequest) -> Trained:
    obtain(request.param)
    run = configure("baselines", "one-stream", "smoke", dataset=request.param, seed=71)
    result = fit(run)
    measure(result)
    return result


def test_lists_follow_the_features(trained: Trained) -> None:
    lists = best_matches(trained, queries=3, seed=1, k=4)
    again = best_matches(trained, queries=3, seed=1, k=4)
    np.testing.assert_array_equal(lists.matches, again.matches)
    assert (lists.matches.shape, len(lists.queries)) == ((3, 4), 3)
    index = evaluation_rows(trained).reset_index(drop=True)
    features = np.load(Path(trained.folder) / "features.npy").astype(float)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    for query, row in zip(lists.queries, lists.matches, strict=True):
        similarity = features[row] @ features[query]
        assert (np.diff(similarity) <= 1e-6).all(), "best first"
        assert set(index["modality"][row]) == {"visible", "infrared"} - {index["modality"][query]}
        if trained.run.dataset == "paperdolls-tiny" and lists.cameras[query] == 3:
            assert 2 not in lists.cameras[row]
        assert index["identity"][query] in set(index["identity"][index["modality"] == "visible"])
    shown = {*lists.queries.tolist(), *lists.matches.ravel().tolist()} - {-1}
    assert set(lists.pictures) == shown
    assert lists.pictures[int(lists.queries[0])].shape == (192, 80, 3)

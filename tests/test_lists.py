"""Ranked lists of a run: the same queries for every run, ranked as the evaluation ranks."""

from pathlib import Path

import numpy as np
import pytest

from reid_core.data.datasets import obtain
from reid_core.methods import configure
from reid_core.retrieval import explain, lists
from reid_core.retrieval.candidates import LABELS, prepare
from reid_core.retrieval.features import evaluation_rows, kept_features, measure, settings_of
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


def test_lists_are_of_the_first_search_and_the_seed_chooses(trained):
    first = settings_of(trained.run.dataset, trained.root)[0]
    assert best_matches(trained, 3).mode == first["mode"]
    assert len({tuple(best_matches(trained, 3, seed=s).queries) for s in range(6)}) > 1


def test_every_match_is_of_the_first_searchs_gallery(trained):
    """Every match is of the first search's gallery."""
    setting = settings_of(trained.run.dataset, trained.root)[0]
    index, features = evaluation_rows(trained), kept_features(trained)
    labels = [index[c].to_numpy() for c in LABELS]
    gallery = prepare(features, *labels, **setting).galleries[0]
    found = best_matches(trained, 99, k=99).matches
    assert set(found[found >= 0].tolist()) == set(gallery.tolist())


def test_nobody_is_asked_for_whom_no_picture_answers(trained, monkeypatch):
    index, features = evaluation_rows(trained), kept_features(trained)
    mode = settings_of(trained.run.dataset, trained.root)[0]["mode"]
    answering = "infrared" if mode.startswith("visible") else "visible"
    person = index["identity"].iloc[0]
    kept = ~((index["identity"] == person) & (index["modality"] == answering)).to_numpy()
    monkeypatch.setattr(lists, "evaluation_rows", lambda _: index[kept])
    monkeypatch.setattr(lists, "kept_features", lambda _: features[kept])
    found = best_matches(trained, queries=99)
    assert len(found.queries) and person not in found.identities[found.queries]


def test_features_of_the_figures_have_length_one(trained):
    assert np.abs(np.linalg.norm(explain.unit_features(trained), axis=1) - 1).max() < 1e-5

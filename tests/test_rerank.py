"""Re-ranking against sets and loops, its invariances, and what a re-ranked result is called."""

import numpy as np
import pandas as pd
import pytest
from test_protocols import (
    agw_gallery,
    alike,
    arrays,
    paired_images,
    rows_of,
    same_identity_and_camera,
    same_room,
    sysu_images,
)

from reid_core import results
from reid_core.methods import configure
from reid_core.retrieval import evaluate, rank_metrics
from reid_core.retrieval.features import evaluate_all, measure, settings_of
from reid_core.retrieval.metrics import unit_rows
from reid_core.retrieval.rerank import rerank
from reid_core.train import fit

PLAIN = {"protocol": "sysu", "mode": "all"}


def crowd(queries: int, gallery: int, people: int = 9, seed: int = 0, dtype=np.float64):
    """Unit features of people, each query and gallery image near one of them."""
    rng = np.random.default_rng(seed)
    who = rng.integers(people, size=queries + gallery)
    noise = rng.standard_normal((len(who), 12))
    features = unit_rows(rng.standard_normal((people, 12))[who] + 0.7 * noise).astype(dtype)
    return features[:queries], features[queries:]


def naive(queries, gallery, k1=20, k2=6, weight=0.3, ignore=None):
    """Picture by picture, with sets and dictionaries."""
    every = [*queries, *gallery]
    n, count = len(every), len(queries)
    apart = set()
    if ignore is not None:
        apart = {(q, count + g) for q, g in zip(*np.nonzero(ignore), strict=True)}
        apart |= {(g, q) for q, g in apart}
    d = {}
    for p in range(n):
        row = {g: ((every[p] - every[g]) ** 2).sum() for g in range(n) if (p, g) not in apart}
        d |= {(p, g): value / max(row.values()) for g, value in row.items()}

    def nearest(p, k):
        return sorted((g for g in range(n) if (p, g) in d), key=lambda g: d[p, g])[:k]

    def mutual(p, k):
        return {g for g in nearest(p, k + 1) if p in nearest(g, k + 1)}

    company = []
    for p in range(n):
        members = set(mutual(p, k1))
        for c in mutual(p, k1):
            others = mutual(c, round(k1 / 2))
            if len(others & mutual(p, k1)) > 2 / 3 * len(others):
                members |= others
        values = {g: np.exp(-d[p, g]) for g in members if (p, g) in d}
        company.append({g: v / sum(values.values()) for g, v in values.items()})
    mean = []
    for p in range(n):
        around = nearest(p, k2)
        keys = {g for a in around for g in company[a]}
        mean.append({g: sum(company[a].get(g, 0) for a in around) / len(around) for g in keys})
    result = np.full((count, n - count), np.inf)
    for q in range(count):
        for g in range(count, n):
            if (q, g) in d:
                keys = mean[q].keys() | mean[g].keys()
                pairs = [(mean[q].get(x, 0), mean[g].get(x, 0)) for x in keys]
                jaccard = 1 - sum(map(min, pairs)) / sum(map(max, pairs))
                result[q, g - count] = (1 - weight) * jaccard + weight * d[q, g]
    return result


@pytest.mark.parametrize(
    "sizes, settings",
    [
        ((14, 26), {}),
        ((14, 26), {"k1": 7, "k2": 3, "weight": 0.6}),
        ((20, 15), {"k1": 5, "k2": 1, "weight": 0.0}),
        ((3, 30), {"k1": 4, "k2": 6}),
        ((2, 3), {}),  # far fewer than k1
        ((1, 1), {}),
    ],
)
def test_agrees_with_sets_and_loops(sizes, settings):
    queries, gallery = crowd(*sizes)
    found = rerank(queries, gallery, **settings)
    np.testing.assert_allclose(found, naive(queries, gallery, **settings), rtol=0, atol=1e-9)


def test_float32_agrees_as_far_as_it_can():
    queries, gallery = crowd(14, 26, dtype=np.float32)
    found = rerank(queries, gallery)
    assert found.dtype == np.float32
    wide = naive(queries.astype(np.float64), gallery.astype(np.float64))
    np.testing.assert_allclose(found, wide, rtol=0, atol=2e-6)


def test_pairs_that_do_not_exist_for_each_other():
    queries, gallery = crowd(14, 26)
    ignore = np.random.default_rng(1).random((14, 26)) < 0.3
    found = rerank(queries, gallery, ignore=ignore, k1=6, k2=3)
    expected = naive(queries, gallery, 6, 3, ignore=ignore)
    assert (np.isinf(found) == ignore).all()
    np.testing.assert_allclose(found[~ignore], expected[~ignore], rtol=0, atol=1e-9)
    free = rerank(queries, gallery, k1=6, k2=3)
    assert np.abs(free - found)[~ignore].max() > 0.01, "they were neighbours before"


def test_where_few_exist_for_a_query_what_does_not_is_no_neighbour():
    queries, gallery = crowd(1, 9)
    ignore = np.array([[True] * 8 + [False]])
    found, expected = (
        rerank(queries, gallery, ignore=ignore),
        naive(queries, gallery, ignore=ignore),
    )
    np.testing.assert_allclose(found[~ignore], expected[~ignore], rtol=0, atol=1e-9)


def test_order_of_queries_and_gallery_does_not_matter():
    queries, gallery = crowd(14, 26)
    rng = np.random.default_rng(2)
    q, g = rng.permutation(14), rng.permutation(26)
    moved = rerank(queries[q], gallery[g], k1=6, k2=3)
    np.testing.assert_allclose(moved, rerank(queries, gallery, k1=6, k2=3)[q][:, g], atol=1e-12)


def test_other_queries_have_a_say():
    """Transductive, as the docstring tells."""
    queries, gallery = crowd(14, 26)
    alone = rerank(queries[:1], gallery, k1=6, k2=3)
    assert np.abs(alone - rerank(queries, gallery, k1=6, k2=3)[:1]).max() > 0.01


def test_twins_and_one_picture_many_times():
    queries, gallery = crowd(5, 8)
    gallery[3] = queries[1]
    found = rerank(queries, gallery, k1=4, k2=2)
    assert np.isfinite(found).all() and found[1].argmin() == 3
    same = rerank(np.repeat(queries[:1], 4, 0), np.repeat(queries[:1], 30, 0))
    assert np.isfinite(same).all() and np.ptp(same) < 1


@pytest.mark.parametrize("wrong", [{"k1": 0}, {"k2": 0}, {"weight": 1.5}, {"weight": -0.1}])
def test_impossible_parameters_are_refused(wrong):
    with pytest.raises(
        ValueError, match=r"rerank: found k1 .* expected k1 and k2 from 1 and a wei"
    ):
        rerank(*crowd(3, 4), **wrong)


# --------------------------------------------------------------------------------- in a protocol


@pytest.fixture
def sysu():
    images = sysu_images(range(1, 13), lambda identity, camera: 3)
    return arrays(images, alike(images, noise=3.0))


def test_every_trial_is_ranked_by_its_own_gallery_under_the_camera_rule(sysu):
    """Against the naive distances of each trial alone; a camera-2 twin of a camera-3 query, put
    there to be found first, is not."""
    images = rows_of(sysu)
    queries = [n for n, image in enumerate(images) if image[3] == "infrared"]
    query = next(n for n in queries if images[n][1] == 3)
    for n, image in enumerate(images):
        if image[1] == 2 and image[0] != images[query][0]:
            sysu["features"][n] = sysu["features"][query]
    first = evaluate(**sysu, **PLAIN, trials=1, rerank=True)
    both = evaluate(**sysu, **PLAIN, trials=2, rerank=True)
    assert first.trials.iloc[0].to_dict() == both.trials.iloc[0].to_dict()

    rows = agw_gallery(images, "visible", (1, 2, 4, 5), 0)
    unit = unit_rows(sysu["features"])
    ignore = np.array([[same_room(images[q], images[g]) for g in rows] for q in queries])
    distance = naive(unit[queries], unit[rows], ignore=ignore)
    found = [
        images[rows[line.argmin()]][0] == images[q][0]
        for q, line in zip(queries, distance, strict=True)
    ]
    assert first.trials["rank1"][0] == pytest.approx(np.mean(found))
    assert first.rerank and not evaluate(**sysu, **PLAIN).rerank


@pytest.mark.parametrize("protocol", ["regdb", "llcm"])
def test_other_protocols(protocol):
    cameras = {"visible": (1, 2), "infrared": (1, 2)}
    images = paired_images(range(1, 9), cameras, lambda identity, camera: 2)
    data = arrays(images, np.eye(9)[[image[0] for image in images]])
    result = evaluate(**data, protocol=protocol, mode="visible-to-infrared", rerank=True)
    assert result.mean["rank1"] == result.mean["mAP"] == 1.0


def test_a_reranked_result_cannot_be_taken_for_a_plain_one(sysu):
    columns = [sysu[c] for c in ("identities", "cameras", "frames", "modalities")]
    index = pd.DataFrame(
        dict(zip(("identity", "camera", "frame", "modality"), columns, strict=True))
    )
    plain, again = evaluate_all(sysu["features"], index, [PLAIN, PLAIN | {"rerank": True}])
    assert plain == evaluate_all(sysu["features"], index, [PLAIN])[0]
    assert "rerank" not in plain and plain["mode"] == "all"
    assert again["mode"] == "all, re-ranked"
    assert again["rerank"] == {"k1": 20, "k2": 6, "weight": 0.3}
    assert again["mAP"] != plain["mAP"]


def test_a_run_measures_both_and_tables_keep_them_apart(monkeypatch, tmp_path, tiny_dolls):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    run = configure("baselines", "two-stream", "smoke", {"epochs": 1, "rerank": True})
    measured = measure(fit(run, tiny_dolls))["results"]
    settings = settings_of(run.dataset, tiny_dolls)
    modes = [mode for s in settings for mode in (s["mode"], f"{s['mode']}, re-ranked")]
    assert [r["mode"] for r in measured] == modes
    other = configure("baselines", "two-stream", "smoke", {"epochs": 1}, seed=1)
    assert [r["mode"] for r in measure(fit(other, tiny_dolls))["results"]] == modes[::2]
    found = results.table("smoke").assign(settings='{"model": {}}')  # apart from `rerank` the same
    averaged = results.averaged(found)
    counts = averaged.query("gallery == 'agw'").set_index("mode")["runs"]
    assert counts.to_dict() == {"all": 2, "all, re-ranked": 1, "indoor": 2, "indoor, re-ranked": 1}


def test_llcms_neighbours_know_no_identity():
    cameras = {"visible": (1, 2), "infrared": (1, 2)}
    images = paired_images(range(1, 13), cameras, lambda i, c: 2)
    data = arrays(images, alike(images, noise=3.0))
    queries = [n for n, i in enumerate(images) if i[3] == "visible"]
    rows = agw_gallery(images, "infrared", (1, 2), 0)
    unit, who = unit_rows(data["features"]), data["identities"]
    ignore = np.array(
        [[same_identity_and_camera(images[q], images[g]) for g in rows] for q in queries]
    )
    expected = rank_metrics(
        -rerank(unit[queries], unit[rows]), who[queries], who[rows], ignore=ignore
    )
    found = evaluate(
        **data, protocol="llcm", mode="visible-to-infrared", trials=1, rerank=True
    ).mean
    assert found == pytest.approx({k: expected[k] for k in found})

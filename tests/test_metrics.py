"""rank_metrics against a worked example, a naive reference and the properties it must have."""

import numpy as np
import pandas as pd
import pytest
import torch

from reid_core.retrieval import metrics, rank_metrics


def naive_metrics(similarity, query_ids, gallery_ids, ignore, cmc):
    """The definitions, one query and one image at a time."""
    places, precisions, penalties = [], [], []
    for q in range(len(query_ids)):
        kept = [g for g in range(len(gallery_ids)) if not ignore[q][g]]
        ranked = sorted(kept, key=lambda g: -similarity[q][g])  # Python's sort is stable
        listed = [gallery_ids[g] for g in ranked]
        if query_ids[q] not in listed:
            continue
        before = listed[: listed.index(query_ids[q])]
        places.append(1 + (len(set(before)) if cmc == "identities" else len(before)))
        hits = [rank for rank, identity in enumerate(listed, 1) if identity == query_ids[q]]
        precisions.append(sum(k / rank for k, rank in enumerate(hits, 1)) / len(hits))
        penalties.append(len(hits) / hits[-1])
    return {
        **{f"rank{k}": np.mean([place <= k for place in places]) for k in (1, 5, 10, 20)},
        "mAP": np.mean(precisions),
        "mINP": np.mean(penalties),
        "queries": len(query_ids),
        "valid_queries": len(places),
    }


@pytest.fixture(params=range(12))
def example(request):
    """Random queries; odd seeds tie many similarities, galleries run from 1 image to 60."""
    rng = np.random.default_rng(request.param)
    n_gallery = (1, 2, 7, 60)[request.param % 4]
    similarity = rng.standard_normal((25, n_gallery))
    if request.param % 2:
        similarity = similarity.round()
    query_ids, gallery_ids = rng.integers(0, 9, 25), rng.integers(0, 9, n_gallery)
    query_ids[0] = gallery_ids[0]
    ignore = rng.random((25, n_gallery)) < 0.3
    ignore[0, 0] = False
    return similarity, query_ids, gallery_ids, ignore


@pytest.mark.parametrize("cmc", ["identities", "images"])
def test_agrees_with_the_naive_reference(example, cmc):
    similarity, query_ids, gallery_ids, ignore = example
    for mask in (ignore, None):
        found = rank_metrics(similarity, query_ids, gallery_ids, ignore=mask, cmc=cmc)
        nothing = np.zeros_like(ignore)
        expected = naive_metrics(
            similarity, query_ids, gallery_ids, nothing if mask is None else mask, cmc
        )
        assert found == pytest.approx(expected, abs=1e-12)


def test_five_images_by_hand():
    # Ranked: B a B A A (a is A, ignored). Kept list: B B A A.
    similarity = [[0.9, 0.8, 0.7, 0.6, 0.5]]
    ids = ["B", "A", "B", "A", "A"]
    ignore = np.array([[False, True, False, False, False]])
    by_identity = rank_metrics(similarity, ["A"], ids, ignore=ignore)
    assert by_identity["rank1"] == 0  # B comes first
    assert by_identity["rank5"] == 1  # A is the second identity
    assert by_identity["mAP"] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert by_identity["mINP"] == pytest.approx(2 / 4)
    assert rank_metrics(similarity, ["A"], ids)["mAP"] == pytest.approx((1 / 2 + 2 / 4 + 3 / 5) / 3)


def test_identities_are_counted_once_and_images_each():
    similarity = np.linspace(1, 0, 6)[None]
    ids = [1, 1, 1, 1, 1, 2]  # the match is the sixth image but the second identity
    assert rank_metrics(similarity, [2], ids, cmc="identities")["rank5"] == 1
    assert rank_metrics(similarity, [2], ids, cmc="images")["rank5"] == 0
    assert rank_metrics(similarity, [2], ids, cmc="images")["rank10"] == 1


def test_equal_similarities_keep_the_order_of_the_gallery():
    assert rank_metrics([[1, 1, 1]], [7], [7, 8, 9])["mAP"] == 1
    assert rank_metrics([[1, 1, 1]], [7], [8, 9, 7])["mAP"] == pytest.approx(1 / 3)


def test_an_identity_that_is_wholly_ignored_takes_no_place():
    similarity = [[0.9, 0.8, 0.7]]
    ignore = np.array([[True, True, False]])
    assert rank_metrics(similarity, [3], [1, 2, 3], ignore=ignore)["rank1"] == 1


def test_queries_without_a_match_leave_the_average():
    found = rank_metrics([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]], [1, 5, 1], [1, 2])
    assert (found["queries"], found["valid_queries"]) == (3, 2)
    assert found["rank1"] == 0.5


def test_only_the_order_of_similarities_counts(example):
    similarity, query_ids, gallery_ids, ignore = example
    found = rank_metrics(similarity, query_ids, gallery_ids, ignore=ignore)
    bent = np.exp(similarity) * 100 - 7
    assert rank_metrics(bent, query_ids, gallery_ids, ignore=ignore) == found


def test_blocks_do_not_change_the_result(example, monkeypatch):
    similarity, query_ids, gallery_ids, ignore = example
    found = rank_metrics(similarity, query_ids, gallery_ids, ignore=ignore)
    monkeypatch.setattr(metrics, "BLOCK_ENTRIES", 3 * len(gallery_ids))
    assert rank_metrics(similarity, query_ids, gallery_ids, ignore=ignore) == found


def test_blocks_cover_every_query_once_within_their_size():
    blocks = list(metrics.query_blocks(1000, 100_000))
    rows = [row for block in blocks for row in range(*block.indices(1000))]
    assert rows == list(range(1000))
    assert max(block.stop - block.start for block in blocks) * 100_000 <= metrics.BLOCK_ENTRIES
    assert metrics.BLOCK_ENTRIES <= 2**24


def test_tensors_and_series_are_taken(example):
    similarity, query_ids, gallery_ids, ignore = example
    found = rank_metrics(similarity, query_ids, gallery_ids, ignore=ignore)
    again = rank_metrics(
        torch.from_numpy(similarity).requires_grad_(),
        torch.from_numpy(query_ids),
        pd.Series(gallery_ids, index=range(50, 50 + len(gallery_ids))),
        ignore=torch.from_numpy(ignore),
    )
    assert again == found


def test_how_a_matrix_lies_in_memory_does_not_matter(example):
    similarity, *rest, ignore = example
    expected = rank_metrics(similarity, *rest, ignore=ignore)
    assert rank_metrics(np.asfortranarray(similarity), *rest, ignore=ignore) == expected


def test_the_input_is_left_as_it_was(example):
    similarity, query_ids, gallery_ids, ignore = example
    before = similarity.copy(), ignore.copy()
    rank_metrics(similarity, query_ids, gallery_ids, ignore=ignore)
    np.testing.assert_array_equal(similarity, before[0])
    np.testing.assert_array_equal(ignore, before[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype):
    widened = metrics.real_matrix("features", torch.ones(2, 3, dtype=dtype))
    assert widened.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_precision_is_kept(dtype):
    assert metrics.real_matrix("features", np.ones((2, 3), dtype)).dtype == dtype
    assert metrics.unit_rows(np.ones((2, 3), dtype)).dtype == dtype


def test_unit_rows_survive_squares_beyond_the_range_of_floats():
    rows = np.array([[3e30, 4e30], [-3e-30, 4e-30]], dtype=np.float32)
    np.testing.assert_allclose(metrics.unit_rows(rows), [[0.6, 0.8], [-0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"similarity": [0.1, 0.2]}, r"similarity: found float64 of shape \(2,\), expected a matr"),
        ({"similarity": [["a", "b"]]}, "similarity: found <U1 .* expected a matrix of real"),
        ({"similarity": [[np.nan, np.inf]]}, "similarity: found 2 NaN or infinite"),
        ({"query_ids": [1, 2]}, r"query_ids: found shape \(2,\), expected \(1,\)"),
        ({"gallery_ids": [[1, 2]]}, r"gallery_ids: found shape \(1, 2\), expected \(2,\)"),
        ({"ignore": np.zeros((2, 1), bool)}, r"ignore: found bool of shape \(2, 1\)"),
        ({"ignore": np.zeros((1, 2), int)}, "ignore: found int64"),
        ({"cmc": "people"}, "cmc: found 'people', expected one of identities, images"),
        ({"query_ids": [3]}, "found 0 of 1 queries"),
        ({"ignore": np.array([[True, False]])}, "found 0 of 1 queries"),
        ({"similarity": np.empty((1, 0)), "gallery_ids": []}, "found 0 of 1 queries"),
        ({"similarity": np.empty((0, 2)), "query_ids": []}, "found 0 of 0 queries"),
    ],
)
def test_errors_say_what_was_found_and_expected(change, message):
    arguments = {"similarity": [[0.9, 0.1]], "query_ids": [1], "gallery_ids": [1, 2], **change}
    with pytest.raises(ValueError, match=message):
        rank_metrics(**arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stable_order_is_numpy_s(dtype):
    rng = np.random.default_rng(3)
    rows = np.round(rng.standard_normal((20, 300)), 1).astype(dtype)  # full of equals
    rows[0, :6] = [0.0, -0.0, np.inf, -np.inf, -0.0, 0.0]
    rows[1] = -0.0
    rows[2] = np.inf
    before = rows.copy()
    np.testing.assert_array_equal(
        metrics.stable_order(rows), np.argsort(rows, axis=1, kind="stable")
    )
    np.testing.assert_array_equal(rows, before)
    assert np.signbit(rows[1]).all(), "its own minus zeros stay"

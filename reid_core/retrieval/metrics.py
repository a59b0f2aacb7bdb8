"""Rank-k, mAP and mINP of a similarity matrix, without a loop over queries.

Rank-k and mAP are counted as in Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification",
ICCV 2017; mINP as in Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook",
TPAMI 2021.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

CUTOFFS = (1, 5, 10, 20)
METRICS = (*(f"rank{k}" for k in CUTOFFS), "mAP", "mINP")
HEADLINE = ("rank1", "mAP", "mINP")  # the other ranks follow rank-1 and say little beside it
CMC_COUNTS = ("identities", "images")

# Entries of a query × gallery matrix worked on at a time: about 200 MB with all that is derived.
BLOCK_ENTRIES = 2**22


def rank_metrics(
    similarity: Any,
    query_ids: Any,
    gallery_ids: Any,
    *,
    ignore: Any = None,
    cmc: str = "identities",
) -> dict[str, float | int]:
    """Retrieval measures of one gallery, averaged over the queries that have a match in it.

    With rank_k the rank of a query's k-th of K positives in its list, AP = mean_k(k / rank_k) and
    INP = K / rank_K. Both count images; rank-k counts what ``cmc`` says. Equal similarities keep
    the gallery's order.

    Parameters
    ----------
    similarity : (Q, G) array or tensor
        Higher is more alike; finite.
    query_ids, gallery_ids : (Q,) and (G,)
        Identity of each row and of each column.
    ignore : (Q, G) boolean, optional
        True where a gallery image does not exist for a query.
    cmc : "identities" or "images"
        Rank-k is the share of queries whose identity is among the first k distinct identities of
        the ranked list (SYSU-MM01, LLCM), or among its first k images (RegDB).

    Returns
    -------
    dict
        ``rank1, rank5, rank10, rank20, mAP, mINP`` as fractions, and the counts ``queries`` and
        ``valid_queries`` (those with a positive that is not ignored).

    Raises
    ------
    ValueError
        An argument has the wrong shape, kind or value, or no query has a match.
    """
    similarity = real_matrix("similarity", similarity)
    unusable = similarity.size - np.isfinite(similarity).sum()
    if unusable:
        raise ValueError(
            f"similarity: found {unusable} NaN or infinite entries, expected finite numbers; "
            "mark what must not be ranked in ignore"
        )
    n_queries, n_gallery = similarity.shape
    query_ids = vector("query_ids", query_ids, n_queries, "row of similarity")
    gallery_ids = vector("gallery_ids", gallery_ids, n_gallery, "column of similarity")
    if ignore is not None:
        ignore = as_array(ignore)
        if ignore.shape != similarity.shape or ignore.dtype != bool:
            raise ValueError(
                f"ignore: found {ignore.dtype} of shape {ignore.shape}, expected a boolean mask "
                f"of similarity's shape {similarity.shape}; True leaves a gallery image out"
            )
    if cmc not in CMC_COUNTS:
        raise ValueError(f"cmc: found {cmc!r}, expected one of {', '.join(CMC_COUNTS)}; choose one")
    scores = [
        score_queries(
            similarity[block],
            query_ids[block],
            gallery_ids,
            ignore=None if ignore is None else ignore[block],
            cmc=cmc,
        )
        for block in query_blocks(n_queries, n_gallery)
    ]
    return average(scores, n_queries)


def query_blocks(n_queries: int, n_gallery: int) -> Iterator[slice]:
    """Slices of queries that keep a block's query × gallery matrices within bounded memory."""
    size = max(1, BLOCK_ENTRIES // max(1, n_gallery))
    return (slice(start, start + size) for start in range(0, n_queries, size))


def score_queries(
    similarity: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    *,
    ignore: np.ndarray | None,
    cmc: str,
) -> np.ndarray:
    """Scores (3, V) of the V valid queries: place of the first match (1-based, counted as ``cmc``
    says), AP, INP. Arguments as in `rank_metrics`, already checked."""
    if len(gallery_ids) == 0:
        return np.empty((3, 0))  # nobody answers
    by_identity = np.argsort(gallery_ids, kind="stable")
    people, start, count = np.unique(
        gallery_ids[by_identity], return_index=True, return_counts=True
    )
    person = np.searchsorted(people, query_ids).clip(max=len(people) - 1)
    # The columns of each query's positives, (Q, K) with the most that anyone has: few beside G, so
    # that nothing but one sort need look at all of a list.
    k = np.arange(count.max())
    column = by_identity[(start[person, None] + k).clip(max=len(by_identity) - 1)]
    exists = (k < count[person, None]) & (people[person] == query_ids)[:, None]
    if ignore is not None:
        exists &= ~np.take_along_axis(ignore, column, axis=1)
    valid = exists.any(axis=1)
    exists, column = exists[valid], column[valid]

    kept = slice(None) if valid.all() else valid  # if all are valid, a view saves a copy
    distance = np.negative(similarity[kept], order="C")  # whole rows in memory: they get sorted
    if ignore is not None:
        np.putmask(distance, ignore[kept], np.inf)  # to the very end: they shift nobody's rank
    rank = _ranks(distance, column, exists)
    positives = exists.sum(axis=1)
    precision = np.where(k < positives[:, None], (k + 1) / rank, 0)
    average_precision = precision.sum(axis=1) / positives
    last = np.take_along_axis(rank, positives[:, None] - 1, axis=1)[:, 0]
    place = rank[:, 0]
    if cmc == "identities":
        first = np.where(exists, np.take_along_axis(distance, column, axis=1), np.inf).min(axis=1)
        nearer = (distance <= first[:, None])[:, by_identity]  # what is ignored is infinitely far
        place = np.logical_or.reduceat(nearer, start, axis=1).sum(axis=1)
    return np.stack([place, average_precision, positives / last])


def _ranks(distance: np.ndarray, column: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """Ranks (V, K), ascending, of the positives at ``column`` (V, K) of each row of ``distance``
    (V, G), where they exist; what follows them in a row means nothing.

    Values are sorted and positives looked up in them, which is many times faster than to sort
    columns. Only where a positive has its equal does the gallery's order matter: there
    ``distance`` is replaced by each image's place in it, which is unique.
    """
    own = np.where(exists, np.take_along_axis(distance, column, axis=1), np.inf)
    own.sort(axis=1)
    lists = torch.from_numpy(np.sort(distance, axis=1)), torch.from_numpy(own)
    before = torch.searchsorted(*lists).numpy()
    equal = torch.searchsorted(*lists, right=True).numpy() - before
    tied = ((equal > 1) & np.isfinite(own)).any(axis=1)
    if tied.any():
        order = stable_order(distance[tied])
        places = np.empty(order.shape, distance.dtype)
        np.put_along_axis(places, order, np.arange(order.shape[1], dtype=places.dtype)[None], 1)
        distance[tied] = places
        return _ranks(distance, column, exists)
    return before + 1


def stable_order(rows: np.ndarray) -> np.ndarray:
    """``np.argsort(rows, axis=1, kind="stable")`` of floats (n, G), without NaN.

    In float32, where long lists are full of equals, a number and its place fit into one integer:
    sorting those needs no places beside them, and numpy has vector instructions for it.
    """
    if rows.dtype != np.float32:
        return np.argsort(rows, axis=1, kind="stable")
    bits = (rows + np.float32(0)).view(np.int32)  # + 0 makes -0.0, which equals it, 0.0
    bits = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)  # integers in the floats' order
    keys = bits.astype(np.int64) << 32 | np.arange(rows.shape[1])
    keys.sort(axis=1)
    return keys & 0xFFFFFFFF


def average(scores: list[np.ndarray], n_queries: int) -> dict[str, float | int]:
    """The dict of `rank_metrics` from the `score_queries` of all blocks of ``n_queries`` queries.

    Raises
    ------
    ValueError
        No query is valid.
    """
    n_valid = sum(block.shape[1] for block in scores)
    if n_valid == 0:
        raise ValueError(
            f"No match: found 0 of {n_queries} queries with an image of their identity left in the "
            "gallery, expected at least one; check that identities agree across the two sides"
        )
    place, average_precision, inverse_negative_penalty = np.concatenate(scores, axis=1)
    return {
        **{f"rank{k}": float((place <= k).mean()) for k in CUTOFFS},
        "mAP": float(average_precision.mean()),
        "mINP": float(inverse_negative_penalty.mean()),
        "queries": n_queries,
        "valid_queries": n_valid,
    }


def as_array(values: Any) -> np.ndarray:
    """Lists, pandas Series and tensors on any device as a numpy array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        if values.dtype == torch.bfloat16:  # which numpy does not have
            values = values.float()
    return np.asarray(values)


def real_matrix(name: str, values: Any) -> np.ndarray:
    """``values`` as a 2-D array of float32 or wider; what is a float of that width keeps it.

    Raises
    ------
    ValueError
        ``values`` is not a matrix of real numbers.
    """
    array = as_array(values)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name}: found {array.dtype} of shape {array.shape}, expected a matrix of real "
            "numbers; pass a 2-D array or tensor"
        )
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, by way of their largest entry, so that no square under- or
    overflows.

    Raises
    ------
    ValueError
        A row is empty, zero, NaN or infinite.
    """
    if features.size == 0:
        raise ValueError(
            f"features: found shape {features.shape}, expected one non-empty row a test image; "
            "extract them first"
        )
    peak = np.maximum(features.max(axis=1), -features.min(axis=1))
    for fault, wrong in (("NaN or infinite", ~np.isfinite(peak)), ("zero", peak == 0)):
        if wrong.any():
            raise ValueError(
                f"features: found {wrong.sum()} {fault} rows, the first is row {wrong.argmax()}, "
                "expected finite rows with a direction; check the model and its inputs"
            )
    scaled = features / peak[:, None]
    for block in query_blocks(*scaled.shape):  # all squares at once would be as large once more
        scaled[block] /= np.linalg.norm(scaled[block], axis=1, keepdims=True)
    return scaled


def vector(name: str, values: Any, length: int, unit: str) -> np.ndarray:
    """``values`` as a 1-D array with one entry for each of ``length`` units.

    Raises
    ------
    ValueError
        ``values`` has another shape.
    """
    array = as_array(values)
    if array.shape != (length,):
        raise ValueError(
            f"{name}: found shape {array.shape}, expected ({length},); pass one value for each "
            f"{unit}"
        )
    return array


def integers(name: str, values: Any, length: int, unit: str) -> np.ndarray:
    """`vector` of int64.

    Raises
    ------
    ValueError
        ``values`` has another shape, or is not of integers.
    """
    array = vector(name, values, length, unit)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: found {array.dtype}, expected integers; convert them first")
    return array.astype(np.int64)

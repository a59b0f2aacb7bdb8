"""Measuring features by the protocols of SYSU-MM01, RegDB and LLCM.

Sources: Wu et al., ICCV 2017 (SYSU-MM01); Nguyen et al., Sensors 2017 (RegDB); Zhang & Wang, CVPR
2023 (LLCM); Ye et al., TPAMI 2021 (AGW, whose way of drawing galleries the field adopted).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from reid_core.retrieval.candidates import TestSet, ignored, prepare
from reid_core.retrieval.metrics import CUTOFFS, METRICS, average, query_blocks, score_queries
from reid_core.retrieval.rerank import rerank as reranked


@dataclass(frozen=True)
class Result:
    """Measures of one set of features under one protocol.

    Attributes
    ----------
    protocol, mode, shots, gallery, rerank
        As asked of `evaluate`; the gallery of RegDB, where nothing is drawn, is "full".
    trials : pandas.DataFrame
        A row a trial: ``rank1, rank5, rank10, rank20, mAP, mINP`` as fractions, and the counts
        ``queries``, ``valid_queries`` and ``gallery_size``.
    cmc : (20,) numpy.ndarray
        The cumulative matching characteristic at ranks 1 to 20, averaged over the trials.
    """

    protocol: str
    mode: str
    shots: int
    gallery: str
    trials: pd.DataFrame
    cmc: np.ndarray
    rerank: bool = False

    @property
    def mean(self) -> dict[str, float]:
        """The measures averaged over the trials."""
        return {name: float(self.trials[name].mean()) for name in METRICS}


def evaluate(
    features: Any,
    identities: Any,
    cameras: Any,
    frames: Any,
    modalities: Any,
    *,
    protocol: str,
    mode: str,
    shots: int = 1,
    gallery: str = "agw",
    permutations: Any = None,
    trials: int = 10,
    rerank: bool = False,
) -> Result:
    """Measures features of a test set as its dataset's protocol asks.

    Images are compared by the dot product of their L2-normalised features, in the features' own
    precision (at least float32). All arrays have one row a test image, in any order.

    - ``sysu``: every infrared image queries visible images of cameras 1, 2, 4, 5 (``all``) or 1, 2
      (``indoor``). Camera 3 stands in camera 2's room, so its queries ignore camera 2's images,
      whatever their identity.
    - ``regdb``: every image of one modality queries all images of the other. A trial of RegDB is
      another split and another model, hence another call: the table has one row.
    - ``llcm``: every image of one modality queries one image for each identity and camera of the
      other, and ignores the image that shares both its identity and its camera.

    Parameters
    ----------
    features : (N, D)
        Real numbers; no row may be zero.
    identities, cameras : (N,) integers
    frames : (N,) integers
        Number of the image in its folder, from 1.
    modalities : (N,) of "visible" or "infrared"
    protocol : "sysu", "regdb" or "llcm"
    mode : str
        "all" or "indoor" for sysu; else "visible-to-infrared" or "infrared-to-visible", query
        before gallery.
    shots : int
        Gallery images for each identity and camera; other than 1 only with ``official``. An
        identity with fewer images under a camera gives all that it has.
    gallery : "agw" or "official"
        ``official`` (sysu only) follows the permutations shipped with SYSU-MM01 (Wu et al.).
        ``agw`` draws with Python's generator seeded with the trial's number, as Ye et al. and most
        code since. The two differ by up to four points.
    permutations : dict or array
        For ``official``: ``scipy.io.loadmat("exp/rand_perm_cam.mat")``, or its ``rand_perm_cam``.
    trials : int
        How many galleries to draw and average over; RegDB draws none and does not look at it.
    rerank : bool
        Rank by `retrieval.rerank` among the queries and the gallery of each trial, with no picture
        of another trial. Pairs that SYSU-MM01's camera rule leaves out are no neighbours; LLCM's
        rule, which looks at identities, only leaves pictures out of the ranked lists.

    Raises
    ------
    ValueError
        An argument does not fit the protocol, the others or itself; the message names it.
    """
    test = prepare(
        features, identities, cameras, frames, modalities, protocol=protocol, mode=mode,
        shots=shots, gallery=gallery, permutations=permutations, trials=trials,
    )  # fmt: skip
    table, cmc = _measure(test, rerank)
    name = "full" if protocol == "regdb" else gallery
    return Result(protocol, mode, shots, name, table, cmc, rerank)


def top_matches(
    features: Any,
    identities: Any,
    cameras: Any,
    frames: Any,
    modalities: Any,
    *,
    protocol: str,
    mode: str,
    queries: Any,
    k: int = 10,
    **settings: Any,
) -> np.ndarray:
    """The ``k`` best matches of some ``queries`` in the first trial's gallery, as `evaluate` ranks
    them. The other arguments are its own, without ``rerank``.

    Returns
    -------
    (len(queries), k) int
        Rows of ``features``, best first; −1 where a query has fewer than ``k`` candidates.

    Raises
    ------
    ValueError
        As `evaluate`; or a row of ``queries`` shows no query of this mode.
    """
    test = prepare(
        features, identities, cameras, frames, modalities, protocol=protocol, mode=mode,
        **(settings | {"trials": 1}),
    )  # fmt: skip
    wrong = sorted(set(map(int, queries)) - set(test.queries.index))
    if wrong:
        raise ValueError(
            f"queries: found rows {wrong}, expected rows of query images of {protocol} {mode}"
        )
    query, gallery = test.images.loc[queries], test.images.loc[test.galleries[0]]
    distance = -test.features[query.index] @ test.features[gallery.index].T
    distance[ignored(protocol, query, gallery)] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    exists = np.isfinite(np.take_along_axis(distance, order, axis=1))
    rows = np.where(exists, gallery.index.to_numpy()[order], -1)
    return np.pad(rows, ((0, 0), (0, k - rows.shape[1])), constant_values=-1)


class Ranking(NamedTuple):
    """A query's whole gallery, the most alike first. What the camera rule leaves out stands where
    it would have stood."""

    rows: np.ndarray  # (G,) of the features
    similarity: np.ndarray  # (G,) cosines
    rank: np.ndarray  # (G,) from 1; 0 for what does not exist for this query
    right: np.ndarray  # (G,) True: shows the query's person, and exists for it
    place: float  # of the first right image, counted as the protocol's CMC counts; NaN for none,
    average_precision: float  # and so in these
    inverse_negative_penalty: float


def ranking(test: TestSet, query: int, trial: int = 1) -> Ranking:
    """How ``query``, a row of ``test.queries``, ranks the gallery of ``trial``, from 1; its scores
    are those that `evaluate` averages."""
    asked, gallery = test.queries.loc[[query]], test.images.loc[test.galleries[trial - 1]]
    similarity = test.features[[query]] @ test.features[gallery.index].T
    ignore = ignored(test.protocol, asked, gallery)
    scores = _scores(test, asked, gallery, similarity, ignore)
    order = np.argsort(-similarity[0], kind="stable")
    exists = ~ignore[0, order]
    same = gallery.identity.to_numpy()[order] == asked.identity.item()
    return Ranking(
        gallery.index.to_numpy()[order],
        similarity[0, order],
        np.where(exists, np.cumsum(exists), 0),
        same & exists,
        *(scores[:, 0].tolist() if scores.size else [np.nan] * 3),
    )


def _measure(test: TestSet, rerank: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """`Result.trials` and `Result.cmc`."""
    scores = _reranked_scores(test) if rerank else _plain_scores(test)
    table = pd.DataFrame([average(of_trial, len(test.queries)) for of_trial in scores])
    table = table.assign(gallery_size=[len(g) for g in test.galleries]).rename_axis("trial")
    places = [np.concatenate(of_trial, axis=1)[0] for of_trial in scores]
    ranks = np.arange(1, max(CUTOFFS) + 1)
    return table, np.mean([(place[:, None] <= ranks).mean(axis=0) for place in places], axis=0)


def _plain_scores(test: TestSet) -> list[list[np.ndarray]]:
    """Of each trial, its blocks of `score_queries`."""
    used = np.unique(np.concatenate(test.galleries))  # by any trial: each is compared only once
    columns = [np.searchsorted(used, rows) for rows in test.galleries]
    gallery, gallery_features = test.images.loc[used], test.features[used]
    scores: list[list[np.ndarray]] = [[] for _ in test.galleries]
    # numpy sorts on one core alone; not on more than a few, as each that calls torch gets as many
    workers = min(8, torch.get_num_threads())
    with ThreadPoolExecutor(workers) as pool:
        for block in query_blocks(len(test.queries), len(used)):
            query = test.queries.iloc[block]
            similarity = test.features[query.index] @ gallery_features.T
            ignore = ignored(test.protocol, query, gallery)
            size = -(-len(query) // workers)
            parts = [slice(start, start + size) for start in range(0, len(query), size)]
            of_trials = partial(_part_scores, test, query, gallery, columns, similarity, ignore)
            for found in pool.map(of_trials, parts):
                for of_trial, of_part in zip(scores, found, strict=True):
                    of_trial.append(of_part)
    return scores


def _part_scores(
    test: TestSet,
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    columns: list[np.ndarray],
    similarity: np.ndarray,
    ignore: np.ndarray,
    part: slice,
) -> list[np.ndarray]:
    """`score_queries` of the rows ``part`` among each trial's ``columns``."""
    found = []
    for chosen in columns:
        some = similarity[part].take(chosen, axis=1), ignore[part].take(chosen, axis=1)
        found.append(_scores(test, query.iloc[part], gallery.iloc[chosen], *some))
    return found


def _reranked_scores(test: TestSet) -> list[list[np.ndarray]]:
    """`_plain_scores` after re-ranking, for which a trial's queries are needed all at once."""
    scores = []
    queries = test.features[test.queries.index]
    among = queries @ queries.T
    for rows in test.galleries:
        gallery = test.images.loc[rows]
        ignore = ignored(test.protocol, test.queries, gallery)
        distance = reranked(
            queries,
            test.features[rows],
            among=among,
            ignore=ignore if test.protocol == "sysu" else None,  # which looks at no identity
        )
        blocks = query_blocks(*distance.shape)
        scores.append(
            [_scores(test, test.queries.iloc[b], gallery, -distance[b], ignore[b]) for b in blocks]
        )
    return scores


def _scores(
    test: TestSet,
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    similarity: np.ndarray,
    ignore: np.ndarray,
) -> np.ndarray:
    return score_queries(
        similarity,
        query.identity.to_numpy(),
        gallery.identity.to_numpy(),
        ignore=ignore,
        cmc="images" if test.protocol == "regdb" else "identities",
    )

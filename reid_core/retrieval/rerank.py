"""k-reciprocal re-ranking (Zhong, Zheng, Cao, Li: Re-ranking Person Re-identification with
k-reciprocal Encoding, CVPR 2017)."""

import numpy as np
from scipy import sparse

from reid_core.retrieval.metrics import query_blocks

K1, K2, WEIGHT = 20, 6, 0.3  # the paper's k1, k2 and lambda
RERANKED = ", re-ranked"  # ends the mode of a re-ranked result, so that no table can mix the two


def rerank(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    ignore: np.ndarray | None = None,
    among: np.ndarray | None = None,
    k1: int = K1,
    k2: int = K2,
    weight: float = WEIGHT,
) -> np.ndarray:
    """Distances (Q, G) of queries to a gallery, corrected by the company that pictures keep: two
    are alike where the same others count both among their nearest ("k-reciprocal" neighbours).

    With d the squared Euclidean distance divided by its row's largest, N(p, k) the k nearest of p
    (and p itself) and R(p, k) = {g in N(p, k) : p in N(g, k)}:

    - R*(p) is R(p, k1) and every R(c, k1/2), c in R(p, k1), of which more than two thirds lie in
      R(p, k1);
    - V(p) has exp(-d(p, g)) at every g of R*(p), divided by their sum, and is then averaged over
      the k2 nearest of p, itself among them;
    - the result is (1 - weight) (1 - sum min(V(p), V(g)) / sum max(V(p), V(g))) + weight d(p, g).

    **It is transductive**: neighbours are sought among the gallery *and all queries* of the call,
    as in the authors' published code, which the literature's numbers follow. A query's result so
    depends on which other queries were asked; no label is looked at. From the same code are the
    division of V by its sum, "more than" two thirds (the paper prints "at least") and the row's
    largest distance.

    There is no lower limit on the gallery: where fewer than k1 others exist all of them are
    neighbours, every V is nearly the same, and d alone decides.

    Memory: one (Q + G)² matrix of the features' precision and what a few columns more would take
    (67 MB in float32 for SYSU-MM01's 3 803 + 301 pictures).

    Parameters
    ----------
    queries, gallery : (Q, D) and (G, D)
        Rows of length one, of the same floating type.
    ignore : (Q, G) boolean, optional
        True where a gallery image does not exist for a query: the two are never neighbours. Rank
        with the same mask: such a pair's distance is infinite.
    among : (Q, Q), optional
        ``queries @ queries.T``, from a caller that asks several galleries: most of the work.

    Raises
    ------
    ValueError
        k1 or k2 is smaller than 1, or ``weight`` no fraction.
    """
    if k1 < 1 or k2 < 1 or not 0 <= weight <= 1:
        raise ValueError(
            f"rerank: found k1 {k1}, k2 {k2}, weight {weight}, expected k1 and k2 from 1 and a "
            f"weight from 0 to 1; the paper's are {K1}, {K2} and {WEIGHT}"
        )
    count = len(queries)
    products = np.empty((count + len(gallery),) * 2, queries.dtype)
    products[:count, :count] = queries @ queries.T if among is None else among
    products[:count, count:] = queries @ gallery.T
    products[count:, :count] = products[:count, count:].T
    products[count:, count:] = gallery @ gallery.T
    distance = _distances(products, count, ignore)
    nearest = _nearest(distance, max(k1 + 1, k2))
    reciprocal = _reciprocal(distance, nearest[:, : k1 + 1])
    half = _reciprocal(distance, nearest[:, : round(k1 / 2) + 1])
    encoded = _encode(distance, _expand(reciprocal, half))
    near = nearest[:, :k2]
    exists = np.isfinite(np.take_along_axis(distance, near, axis=1)).astype(encoded.dtype)
    encoded = _matrix(near, exists / exists.sum(axis=1, keepdims=True)) @ encoded
    jaccard = _jaccard(encoded[:count], encoded[count:])
    result = (1 - weight) * jaccard + weight * distance[:count, count:]
    if ignore is not None:
        result[ignore] = np.inf  # 0 · inf is none
    return result


def _distances(products: np.ndarray, count: int, ignore: np.ndarray | None) -> np.ndarray:
    """d in the place of the ``products``, with rows divided by their largest; infinite for pairs
    that do not exist for each other, the first ``count`` rows being the queries."""
    distance = products
    distance *= -2
    distance += 2
    np.maximum(distance, 0, out=distance)  # rounding may leave less for twins
    np.fill_diagonal(distance, 0)
    if ignore is not None:
        distance[:count, count:][ignore] = 0  # not the largest of its row
        distance[count:, :count][ignore.T] = 0
    distance /= np.maximum(distance.max(axis=1, keepdims=True), np.finfo(distance.dtype).tiny)
    if ignore is not None:
        distance[:count, count:][ignore] = np.inf
        distance[count:, :count][ignore.T] = np.inf
    return distance


def _nearest(distance: np.ndarray, k: int) -> np.ndarray:
    """The k nearest (n, k) of each row, nearest first, or all where there are fewer."""
    k = min(k, len(distance))
    rows = []
    for block in query_blocks(*distance.shape):
        some = np.argpartition(distance[block], k - 1, axis=1)[:, :k]
        some.sort(axis=1)  # so that of equal distances among them the earlier row comes first
        values = np.take_along_axis(distance[block], some, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        rows.append(np.take_along_axis(some, order, axis=1))
    return np.concatenate(rows)


def _matrix(columns: np.ndarray, values: np.ndarray) -> sparse.csr_array:
    """(n, n) with ``values`` (n, k) at ``columns`` (n, k) of each row."""
    n, k = columns.shape
    start = np.arange(0, n * k + 1, k)
    return sparse.csr_array((values.ravel(), columns.ravel(), start), shape=(n, n))


def _reciprocal(distance: np.ndarray, nearest: np.ndarray) -> sparse.csr_array:
    """R as (n, n) of ones: who is among the nearest of whom, both ways."""
    exists = np.isfinite(np.take_along_axis(distance, nearest, axis=1))
    among = _matrix(nearest, exists.astype(np.int32))
    return (among * among.T).tocsr()


def _expand(reciprocal: sparse.csr_array, half: sparse.csr_array) -> sparse.csr_array:
    """R* as (n, n), positive at its members."""
    shared = (reciprocal @ half.T) * reciprocal  # (p, c): how many of R(c, k1/2) lie in R(p, k1)
    shared = shared.tocoo()
    accepted = 3 * shared.data > 2 * half.sum(axis=1)[shared.col]
    pairs = shared.row[accepted], shared.col[accepted]
    chosen = sparse.csr_array((np.ones_like(pairs[0]), pairs), shape=half.shape)
    return (reciprocal + chosen @ half).tocsr()


def _encode(distance: np.ndarray, members: sparse.csr_array) -> sparse.csr_array:
    """V before it is averaged."""
    members.eliminate_zeros()
    row = np.repeat(np.arange(len(distance)), np.diff(members.indptr))
    values = np.exp(-distance[row, members.indices])  # 0 for pairs that do not exist
    total = np.bincount(row, values, minlength=len(distance)).astype(values.dtype)
    return sparse.csr_array((values / total[row], members.indices, members.indptr), members.shape)


def _jaccard(queries: sparse.csr_array, gallery: sparse.csr_array) -> np.ndarray:
    """1 - sum min / sum max of every two rows, which sum to one: sum max = 2 - sum min. Column by
    column, because each has few entries."""
    shared = np.zeros((queries.shape[0], gallery.shape[0]), queries.dtype)
    queries, gallery = queries.tocsc(), gallery.tocsc()
    for column in range(queries.shape[1]):
        q = slice(*queries.indptr[column : column + 2])
        g = slice(*gallery.indptr[column : column + 2])
        smaller = np.minimum(queries.data[q, None], gallery.data[g])
        shared[queries.indices[q, None], gallery.indices[g]] += smaller
    return 1 - shared / (2 - shared)

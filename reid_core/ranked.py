"""A query's ranked gallery as a figure, with what the camera rule leaves out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reid_core.figures import NEUTRAL, RIGHT, WRONG, framed
from reid_core.retrieval.candidates import IGNORED
from reid_core.retrieval.protocols import Ranking

COLUMNS = 10  # answers in a line
_GRAY = "#767676"


def ranked_gallery(
    pictures: Sequence[np.ndarray], images: pd.DataFrame, found: Ranking, title: str
) -> Figure:
    """A query and its best answers, as `figures.top_lists` draws them, with what the camera rule
    leaves out in gray where it would have stood.

    Parameters
    ----------
    pictures : the query's and then the answers', each (H, W, 3) uint8
    images : DataFrame
        ``identity`` and ``camera`` of each of ``pictures``.
    found : Ranking
        Of the query; may be longer than ``pictures``.
    """
    lines = max(1, -(-(len(pictures) - 1) // COLUMNS))
    height = 2.05 * lines + 1.2  # inches
    figure = Figure(figsize=(10.4, height))
    figure.suptitle(title, fontsize=11, y=1 - 0.08 / height, va="top", linespacing=1.4)
    edges = {"left": 0.01, "right": 0.99, "bottom": 0.42 / height, "top": 1 - 1.08 / height}
    cells = figure.add_gridspec(lines, COLUMNS + 1, wspace=0.12, hspace=0.32, **edges)
    identities, cameras = images["identity"].tolist(), images["camera"].tolist()
    for number, (picture, identity, camera) in enumerate(
        zip(pictures, identities, cameras, strict=True)
    ):
        line, column = divmod(number - 1, COLUMNS) if number else (0, -1)
        axis = figure.add_subplot(cells[line, column + 1])
        if number == 0:
            look, mark = (NEUTRAL, "solid"), "query"
        elif not found.rank[number - 1]:
            look, mark = (_GRAY, "dotted"), "ignored"
            picture = (0.3 * picture + 0.7 * 255).astype(np.uint8)
        else:
            right = found.right[number - 1]
            look = (RIGHT, "solid") if right else (WRONG, "dashed")
            mark = f"{found.rank[number - 1]} {'✓' if right else '✗'}"
        framed(axis, picture, *look, f"{mark}\nid {identity}, cam {camera}", 8)
        if number:
            axis.set_xlabel(f"{found.similarity[number - 1]:.3f}", fontsize=8, labelpad=2)
    figure.supxlabel(
        "green, solid, ✓: same person · red, dashed, ✗: another person · gray, dotted: does not "
        "exist for this query · below: cosine", fontsize=8, y=0.06 / height, va="bottom",
    )  # fmt: skip
    return figure


def in_words(found: Ranking, protocol: str) -> str:
    """A ranking's scores, and what it leaves out, with the ``protocol``'s reason."""
    left_out = int((found.rank == 0).sum())
    reason = f"{left_out} ignored: {IGNORED[protocol]}" if left_out else "none ignored"
    if not found.right.any():
        return f"no right answer in this gallery: the query does not count · {reason}"
    first = found.rank[found.right][0]
    return (
        f"AP {100 * found.average_precision:.1f} % · INP "
        f"{100 * found.inverse_negative_penalty:.1f} % · {found.right.sum()} right, the first at "
        f"rank {first} (for CMC {found.place:.0f}) · {reason}"
    )

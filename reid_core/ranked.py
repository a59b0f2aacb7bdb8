"""Ranked lists as figures: several queries with their best matches, or one query's gallery with
what the camera rule leaves out."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reid_core.figures import NEUTRAL, RIGHT, WRONG
from reid_core.retrieval.candidates import IGNORED
from reid_core.retrieval.lists import Lists
from reid_core.retrieval.protocols import Ranking

COLUMNS = 10  # answers in a line
_GRAY = "#767676"
_MARKS = "green, solid, ✓: same person · red, dashed, ✗: another person"


def top_lists(lists: Lists, title: str) -> Figure:
    """Ranked lists: each row a query and its best matches, green and solid around the right
    identity, red and dashed around a wrong one."""
    lines, k = lists.matches.shape
    figure = Figure(figsize=(0.82 * (k + 1) + 0.6, 1.75 * lines + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=11)
    _rank(figure.subplots(lines, k + 1, squeeze=False), lists, fontsize=7)
    figure.supxlabel(f"rank in the gallery · {_MARKS}", fontsize=9)
    return figure


def top_lists_beside(runs: Mapping[str, Lists], title: str) -> Figure:
    """Ranked lists of the same queries, of several named runs side by side."""
    lines, k = next(iter(runs.values())).matches.shape
    size = (0.84 * (k + 1) * len(runs), 1.85 * lines + 1.4)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=17)
    parts = figure.subfigures(1, len(runs), squeeze=False, wspace=0.03)[0]
    for part, (name, lists) in zip(parts, runs.items(), strict=True):
        part.suptitle(name, fontsize=15)
        _rank(part.subplots(lines, k + 1, squeeze=False), lists, fontsize=10)
    figure.supxlabel(f"rank in the gallery · {_MARKS}", fontsize=14)
    return figure


def _rank(axes: np.ndarray, lists: Lists, fontsize: float) -> None:
    """Draws each query and its best matches into a row of ``axes``."""
    for line, query, row in zip(axes, lists.queries, lists.matches, strict=True):
        label = f"query\ncam {lists.cameras[query]}"
        _framed(line[0], lists.pictures[query], NEUTRAL, "solid", label, fontsize)
        for rank, (axis, match) in enumerate(zip(line[1:], row, strict=True), 1):
            if match < 0:
                axis.set_visible(False)
                continue
            right = lists.identities[match] == lists.identities[query]
            label = f"{rank} {'✓' if right else '✗'}\ncam {lists.cameras[match]}"
            frame = (RIGHT, "solid") if right else (WRONG, "dashed")
            _framed(axis, lists.pictures[match], *frame, label, fontsize)


def _framed(
    axis: Axes, picture: np.ndarray, colour: str, style: str, label: str, fontsize: float
) -> None:
    """Draws ``picture`` with a frame and, above it, its ``label``."""
    axis.imshow(picture)
    axis.set(xticks=[], yticks=[])
    axis.set_title(label, fontsize=fontsize, color=colour, pad=2)
    for spine in axis.spines.values():
        spine.set(edgecolor=colour, linestyle=style, linewidth=2.4)


def ranked_gallery(
    pictures: Sequence[np.ndarray], images: pd.DataFrame, found: Ranking, title: str
) -> Figure:
    """A query and its best answers, as `top_lists` draws them, with what the camera rule
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
        _framed(axis, picture, *look, f"{mark}\nid {identity}, cam {camera}", 8)
        if number:
            axis.set_xlabel(f"{found.similarity[number - 1]:.3f}", fontsize=8, labelpad=2)
    meaning = f"{_MARKS} · gray, dotted: does not exist for this query · below: cosine"
    figure.supxlabel(meaning, fontsize=8, y=0.06 / height, va="bottom")
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

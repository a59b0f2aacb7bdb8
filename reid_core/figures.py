"""Figures for every method and dataset: arrays in, a matplotlib figure out.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; what a colour says is said
by a line style or a mark as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RIGHT, WRONG, NEUTRAL = "#009E73", "#D55E00", "#000000"
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
STYLES = ("-", "--", "-.", ":")
_RANKS = "rank in the gallery · green, solid, ✓: same person · red, dashed, ✗: another person"


def save(figure: Figure, folder: Path, name: str, *, vector: bool = True) -> Path:
    """Writes ``name.png`` (150 dpi) and, for plots, ``name.svg`` into ``folder``; returns the PNG's
    path. Pictures (``vector=False``) get no SVG, which would only wrap their pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Software": None})
    if vector:
        with rc_context({"svg.hashsalt": name}):  # its ids, else random: same data, same file
            figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    return path


def picture_grid(
    pictures: Sequence[Sequence[np.ndarray | None]],
    title: str,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> Figure:
    """A grid of pictures (H, W, 3) uint8 with labels on its columns and rows; None leaves a gap."""
    count = max(len(row) for row in pictures)
    figure = Figure(figsize=(0.72 * count + 1.0, 1.5 * len(pictures) + 0.7), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(pictures), count, squeeze=False)
    for line, row in zip(axes, pictures, strict=True):
        for axis in line:
            _bare(axis)
        for axis, picture in zip(line, row, strict=False):
            if picture is not None:
                axis.imshow(picture)
    for axis, label in zip(axes[0], columns, strict=False):
        axis.set_title(label, fontsize=8)
    for axis, label in zip(axes[:, 0], rows, strict=False):
        axis.set_ylabel(label, fontsize=8)
    return figure


def _bare(axis: Axes) -> None:
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)


def top_lists(
    pictures: Mapping[int, np.ndarray],
    queries: Sequence[int],
    matches: np.ndarray,
    identities: np.ndarray,
    cameras: np.ndarray,
    title: str,
) -> Figure:
    """Ranked lists: each row a query and its best matches, green and solid around the right
    identity, red and dashed around a wrong one.

    Parameters
    ----------
    pictures : dict
        Of each row that is shown, (H, W, 3) uint8.
    queries : (Q,) rows
    matches : (Q, k) rows, −1 for none; see ``retrieval.top_matches``
    identities, cameras : (N,)
    """
    k = matches.shape[1]
    figure = Figure(figsize=(0.82 * (k + 1) + 0.6, 1.75 * len(queries) + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(queries), k + 1, squeeze=False)
    _rank(axes, pictures, queries, matches, identities, cameras, fontsize=7)
    figure.supxlabel(_RANKS, fontsize=9)
    return figure


def top_lists_beside(runs: Mapping[str, tuple], title: str) -> Figure:
    """Ranked lists of the same queries, of several runs side by side: for each name what
    ``top_lists`` takes before its title."""
    _, queries, matches, *_ = next(iter(runs.values()))
    size = (0.84 * (matches.shape[1] + 1) * len(runs), 1.85 * len(queries) + 1.4)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=17)
    parts = figure.subfigures(1, len(runs), squeeze=False, wspace=0.03)[0]
    for part, (name, lists) in zip(parts, runs.items(), strict=True):
        part.suptitle(name, fontsize=15)
        axes = part.subplots(len(queries), matches.shape[1] + 1, squeeze=False)
        _rank(axes, *lists, fontsize=10)
    figure.supxlabel(_RANKS, fontsize=14)
    return figure


def _rank(
    axes: np.ndarray,
    pictures: Mapping[int, np.ndarray],
    queries: Sequence[int],
    matches: np.ndarray,
    identities: np.ndarray,
    cameras: np.ndarray,
    fontsize: float,
) -> None:
    """Draws each query and its best matches into a row of ``axes``."""
    for line, query, row in zip(axes, queries, matches, strict=True):
        label = f"query\ncam {cameras[query]}"
        _framed(line[0], pictures[query], NEUTRAL, "solid", label, fontsize)
        for rank, (axis, match) in enumerate(zip(line[1:], row, strict=True), 1):
            if match < 0:
                axis.set_visible(False)
                continue
            right = identities[match] == identities[query]
            label = f"{rank} {'✓' if right else '✗'}\ncam {cameras[match]}"
            frame = (RIGHT, "solid") if right else (WRONG, "dashed")
            _framed(axis, pictures[match], *frame, label, fontsize)


def _framed(
    axis: Axes, picture: np.ndarray, colour: str, style: str, label: str, fontsize: float
) -> None:
    axis.imshow(picture)
    axis.set(xticks=[], yticks=[])
    axis.set_title(label, fontsize=fontsize, color=colour, pad=2)
    for spine in axis.spines.values():
        spine.set(edgecolor=colour, linestyle=style, linewidth=2.4)


def cmc_curves(curves: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Cumulative matching characteristic: for each name the share (fractions) of queries whose
    identity is found within the first k ranks, k = 1, 2, …"""
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = figure.add_subplot()
    for number, (name, curve) in enumerate(curves.items()):
        curve = np.asarray(curve)
        ranks = np.arange(1, len(curve) + 1)
        label = f"{name} (rank-1 {100 * curve[0]:.1f} %)"
        _line(axis, number, ranks, 100 * curve, label)
    ticks = [1, 5, 10, 15, 20]
    axis.set(xlabel="rank k", ylabel="queries matched within rank k (%)", xticks=ticks)
    axis.set(ylim=(0, 101), title=title)
    _legend(axis)
    return figure


def training_curves(histories: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Every loss term against the epoch, one panel a term, one line a run."""
    hidden = {"epoch", "lr", "seconds"}
    terms = list(dict.fromkeys(c for h in histories.values() for c in h if c not in hidden))
    figure = Figure(figsize=(2.9 * len(terms) + 0.6, 3.2), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axis, term in zip(figure.subplots(1, len(terms), squeeze=False)[0], terms, strict=True):
        for number, (name, history) in enumerate(histories.items()):
            if term in history:
                _line(axis, number, history["epoch"], history[term], name)
        axis.set(xlabel="epoch", ylabel=f"mean {term} loss", ylim=(0, None))
        _legend(axis)
    return figure


def _line(axis: Axes, number: int, x: Sequence, y: Sequence, label: str) -> None:
    colour, style = LINES[number % len(LINES)], STYLES[number % len(STYLES)]
    axis.plot(x, y, color=colour, linestyle=style, marker=".", linewidth=1.8, label=label)


def _legend(axis: Axes) -> None:
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)

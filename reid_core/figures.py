"""Figures for every method and dataset: arrays in, a matplotlib figure out.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; what a colour says is said
by a line style or a mark as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from reid_core.health import NO_TERMS
from reid_core.paths import atomic_file

RIGHT, WRONG, NEUTRAL = "#009E73", "#D55E00", "#000000"
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
STYLES = ("-", "--", "-.", ":")
_MEASURED = ("rank1", "mAP")


def save(figure: Figure, folder: Path, name: str, *, vector: bool = True) -> Path:
    """Writes ``name.png`` (150 dpi) and, for plots, ``name.svg`` into ``folder``; returns the PNG's
    path. Pictures (``vector=False``) get no SVG, which would only wrap their pixels."""
    path = folder / f"{name}.png"
    with atomic_file(path) as png:  # one that is there counts as drawn: it gets its name last
        figure.savefig(png, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
        if vector:
            # its ids, else random: same data, same file
            with rc_context({"svg.hashsalt": name}), atomic_file(path.with_suffix(".svg")) as svg:
                figure.savefig(svg, format="svg", bbox_inches="tight", metadata={"Date": None})
    return path


def image(figure: Figure, folder: Path, name: str, width: int, *, vector: bool = True) -> Image:
    """`save`s it, and shows it in a notebook, ``width`` pixels wide; its title is what those are
    told who cannot see it."""
    title = figure.get_suptitle() or figure.axes[0].get_title()
    return Image(save(figure, folder, name, vector=vector), width=width, alt=title)


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
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
        for axis, picture in zip(line, row, strict=False):
            if picture is not None:
                axis.imshow(picture)
    for axis, label in zip(axes[0], columns, strict=False):
        axis.set_title(label, fontsize=8)
    for axis, label in zip(axes[:, 0], rows, strict=False):
        axis.set_ylabel(label, fontsize=8)
    return figure


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


def training_curves(
    histories: Mapping[str, pd.DataFrame],
    title: str,
    trivial: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Every loss term against the epoch, one panel a term, one line a run, then the spread of the
    features (1 − cosine, mean over pairs of images).

    ``trivial`` ({run: {term: value}}, a model's ``trivial``) draws, dashed, what a term is for
    features that carry nothing: a curve that stays there has learned nothing.
    """
    columns = list(dict.fromkeys(c for history in histories.values() for c in history))
    panels = [c for c in columns if c not in NO_TERMS]
    panels += [c for c in ("total", "spread") if c in columns]
    epochs = max(history["epoch"].max() for history in histories.values())
    figure = Figure(figsize=(2.9 * len(panels) + 0.6, 3.2), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axis, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (run, history) in enumerate(histories.items()):
            if name in history:
                _line(axis, number, history["epoch"], history[name], run)
        for value in sorted({known[name] for known in (trivial or {}).values() if name in known}):
            axis.axhline(value, color="0.35", linestyle=(0, (4, 3)), linewidth=1, label="trivial")
        label = "spread of features" if name == "spread" else f"mean {name} loss"
        axis.set(xlabel="epoch", ylabel=label, ylim=(0, None), xlim=(0.5, epochs + 0.5))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = {}
    for axis in figure.axes:
        lines, names = axis.get_legend_handles_labels()
        handles |= dict(zip(names, lines, strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def convergence(histories: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Rank-1 and mAP (a row each, per cent) after every epoch, against epochs and against the
    seconds of training until then; a line a run, of which the epochs count that were measured."""
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for row, measure, text in zip(axes, _MEASURED, ("rank-1", "mAP"), strict=True):
        for number, (name, history) in enumerate(histories.items()):
            known = history[measure].notna()
            for axis, x in zip(row, (history["epoch"], history["seconds"].cumsum()), strict=True):
                _line(axis, number, x[known], 100 * history[measure][known], name)
        row[0].set(ylabel=f"{text} (%)", ylim=(0, None))
    axes[1, 0].set(xlabel="epoch")
    axes[1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1, 1].set(xlabel="seconds of training")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=9)
    return figure


def sweep_curves(
    sweeps: Mapping[str, pd.DataFrame], setting: str, label: str, title: str
) -> Figure:
    """Rank-1 and mAP (per cent) against a setting, one panel for each of ``sweeps``.

    Parameters
    ----------
    sweeps : {panel's title: DataFrame}
        A row a point: ``setting``, ``mode``, ``rank1``, ``mAP`` as fractions, ``rank1_std``,
        ``mAP_std``; NaN for a single run: no bar is drawn then, and the mark is hollow.
    """
    figure = Figure(figsize=(4.6 * len(sweeps) + 0.4, 4.0), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(1, len(sweeps), squeeze=False)[0]
    for axis, (name, points) in zip(axes, sweeps.items(), strict=True):
        values = sorted(points[setting].unique())  # evenly spaced: they span orders of magnitude
        for mode_number, (mode, found) in enumerate(points.groupby("mode", sort=False)):
            for number, (measure, text) in enumerate({"rank1": "rank-1", "mAP": "mAP"}.items()):
                aside = 0.06 * (number - 0.5)  # so that one measure's bars do not hide the other's
                places = np.array([values.index(value) + aside for value in found[setting]])
                look = {"color": LINES[2 * mode_number + number], "marker": "os"[number]}
                look |= {"linestyle": STYLES[mode_number], "linewidth": 1.8, "capsize": 4}
                spread = 100 * found[f"{measure}_std"].astype(float).to_numpy()
                y = 100 * found[measure].astype(float).to_numpy()
                axis.errorbar(places, y, spread, label=f"{text}, {mode}", **look)
                hollow(axis, places, y, spread, "os"[number])
        axis.set(xlabel=label, ylabel="per cent, mean ± deviation (hollow: one run)", title=name)
        axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        if points.empty:
            axis.text(0.5, 0.5, "no finished run", ha="center", transform=axis.transAxes)
            axis.set(ylim=(0, 100))
        else:
            _legend(axis)
    return figure


def hollow(axis: Axes, x: np.ndarray, y: np.ndarray, spread: np.ndarray, mark: str) -> None:
    """Hollows the marks at ``x``, ``y`` that have no ``spread`` (NaN)."""
    alone = np.isnan(spread)
    axis.plot(x[alone], y[alone], mark, color="white", markersize=2.5, zorder=9)


def ablation_bars(
    panels: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]],
    labels: Sequence[str],
    title: str,
) -> Figure:
    """Printed and measured rank-1 of an ablation's rows side by side, one panel a setting.

    Parameters
    ----------
    panels : {title: (printed, measured, deviation)}
        Per cent, one for each of ``labels``; NaN for none.
    """
    size = max(4.4, 0.85 * len(labels))
    figure = Figure(figsize=(size * len(panels) + 0.4, 3.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    places, width = np.arange(len(labels)), 0.38
    for axis, (name, (printed, ours, spread)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        look = {"edgecolor": NEUTRAL, "linewidth": 0.6}
        paper = axis.bar(
            places - width / 2, printed, width, color=LINES[4], hatch="//", label="paper", **look
        )
        here = axis.bar(places + width / 2, ours, width, color=LINES[1], label="measured", **look)
        axis.errorbar(places + width / 2, ours, spread, fmt="none", ecolor=NEUTRAL, capsize=4)
        for bars, gap in ((paper, np.zeros(len(labels))), (here, np.nan_to_num(spread))):
            for bar, shift in zip(bars, gap, strict=True):
                if np.isfinite(bar.get_height()):
                    x, y = bar.get_x() + width / 2, bar.get_height() + shift + 0.8
                    axis.text(x, y, f"{bar.get_height():.1f}", ha="center", fontsize=8)
        axis.set_xticks(places, labels, fontsize=8)
        axis.set(ylabel="rank-1 (%)", xlim=(-0.7, len(labels) - 0.3), title=name)
        axis.set(ylim=(0, 128), yticks=range(0, 101, 20))  # the legend stands above the bars
        axis.legend(fontsize=8, loc="upper left")
    return figure


def flow_diagram(
    boxes: Mapping[str, tuple[float, float, str]],
    arrows: Sequence[tuple[str, str]],
    title: str,
) -> Figure:
    """Labelled boxes and the arrows between them: what flows where in a network.

    Parameters
    ----------
    boxes : {label: (column, row, state)}
        The state is "trained" (green), "fixed" (orange, dashed) or "plain".
    arrows : sequence of (from, to)
    """
    look = {
        "trained": {"facecolor": "#CDEBE1", "edgecolor": RIGHT, "linestyle": "solid"},
        "fixed": {"facecolor": "#F8DFCC", "edgecolor": WRONG, "linestyle": "dashed"},
        "plain": {"facecolor": "white", "edgecolor": NEUTRAL, "linestyle": "solid"},
    }
    columns, rows, states = zip(*boxes.values(), strict=True)
    figure = Figure(figsize=(1.9 * (max(columns) + 1), 1.3 * (max(rows) + 1) + 0.8))
    axis = figure.add_subplot()
    axis.set(xlim=(-0.6, max(columns) + 0.6), ylim=(max(rows) + 0.6, -0.6), title=title)
    axis.axis("off")
    for label, (x, y, state) in boxes.items():
        frame = {"boxstyle": "round,pad=0.5", "linewidth": 1.8, **look[state]}
        axis.text(x, y, label, ha="center", va="center", fontsize=10, bbox=frame, zorder=3)
    for start, end in arrows:
        (x0, y0, _), (x1, y1, _) = boxes[start], boxes[end]
        line = {"arrowstyle": "-|>", "shrinkA": 24, "shrinkB": 24, "linewidth": 1.4}
        axis.annotate("", (x1, y1), (x0, y0), arrowprops=line)
    meaning = {"trained": "learns", "fixed": "fixed: no gradient reaches it"}
    legend = [Patch(label=text, **look[s]) for s, text in meaning.items() if s in states]
    axis.legend(handles=legend, loc="lower center", ncols=2, fontsize=9, bbox_to_anchor=(0.5, -0.1))
    return figure


def _line(axis: Axes, number: int, x: Sequence, y: Sequence, label: str) -> None:
    colour, style = LINES[number % len(LINES)], STYLES[number % len(STYLES)]
    axis.plot(x, y, color=colour, linestyle=style, marker=".", linewidth=1.8, label=label)


def _legend(axis: Axes) -> None:
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)

"""Runs beside each other: where their features lie, how far apart they are, and where they look.

As in ``figures``: arrays in, a matplotlib figure out. Each takes a mapping from the names of runs
and draws a panel or a row for each of them, on the same scales. ``retrieval.explain`` computes
what is drawn here. At the end stand the averages of methods, and the steps between their rows.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image
from scipy.ndimage import gaussian_filter

from reid_core.figures import LINES, NEUTRAL, RIGHT, STYLES, WRONG, hollow

PEOPLE = (  # Paul Tol's "muted" and black; beyond ten they repeat, and the numbers tell
    "#332288", "#CC6677", "#117733", "#88CCEE", "#882255",
    "#DDCC77", "#44AA99", "#AA4499", "#999933", "#000000",
)  # fmt: skip
MARKERS = {"visible": "o", "infrared": "^"}
HEAT = colormaps["inferno"]
VERDICTS = {  # of `agreement`, with a colour and a mark each
    "agrees": (RIGHT, "o"),
    "disagrees": (WRONG, "X"),
    "inside the spread": (LINES[0], "s"),
    "one seed": ("#777777", "^"),
}


def embeddings(
    points: Mapping[str, np.ndarray],
    identities: np.ndarray,
    modalities: np.ndarray,
    title: str,
) -> Figure:
    """The same pictures in several runs' planes, a panel a run: the colour and the number tell the
    identity, the mark the modality (Fig. 7a, b, mrda).

    Parameters
    ----------
    points : dict of (n, 2)
        For each name, as `retrieval.explain.tsne` places them.
    identities : (n,) integers
    modalities : (n,) of "visible" and "infrared"
    """
    figure = Figure(figsize=(5.6 * len(points), 6.1), layout="constrained")
    figure.suptitle(title, fontsize=15)
    people = np.unique(identities)
    axes = figure.subplots(1, len(points), squeeze=False)[0]
    for axis, (name, xy) in zip(axes, points.items(), strict=True):
        axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        axis.set_title(name, fontsize=14)
        axis.margins(0.05, 0.1)  # for the numbers above the topmost people
        for number, identity in enumerate(people):
            colour = PEOPLE[number % len(PEOPLE)]
            for modality, marker in MARKERS.items():
                own = xy[(identities == identity) & (modalities == modality)]
                face = colour if modality == "visible" else "none"
                style = {"marker": marker, "facecolor": face, "edgecolor": colour}
                axis.scatter(*own.T, s=46, linewidth=1.5, **style)
                _number(axis, own, number + 1)
    marks = [
        Line2D([], [], marker=marker, linestyle="", color="#444444", markersize=8, label=modality,
               markerfacecolor="#444444" if modality == "visible" else "none")
        for modality, marker in MARKERS.items()
    ]  # fmt: skip
    names = " · ".join(f"{n}: id {i}" for n, i in enumerate(people, 1))
    figure.legend(handles=marks, loc="outside lower center", ncols=2, fontsize=13, title=names)
    return figure


def _number(axis: Axes, own: np.ndarray, number: int) -> None:
    """Above the topmost of some points, so that it hides none of them."""
    halo = [withStroke(linewidth=3, foreground="white")]
    style = {"fontsize": 13, "fontweight": "bold", "path_effects": halo, "ha": "center"}
    top = own[own[:, 1].argmax()]
    axis.annotate(str(number), top, (0, 6), textcoords="offset points", **style)


def distance_histograms(
    distances: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str
) -> Figure:
    """Intra- and inter-class distances, a panel a run, with their means and the gap between them
    (Fig. 7c, d, mrda).

    The gap is given in standard deviations σ too, the root of the two variances' mean: features
    that are never negative lie close together whoever they show, so the gaps of two methods
    compare in σ only. For the same reason the panels share the distances and not the density.

    Parameters
    ----------
    distances : dict of (intra, inter)
        For each name, as `retrieval.explain.class_distances` returns them.
    """
    figure = Figure(figsize=(5.6 * len(distances), 4.6), layout="constrained")
    figure.suptitle(title, fontsize=15)
    axes = figure.subplots(1, len(distances), squeeze=False, sharex=True)[0]
    for axis, (name, pair) in zip(axes, distances.items(), strict=True):
        means = [part.mean() for part in pair]
        bins = np.histogram_bin_edges(np.concatenate(pair), 60)
        for part, mean, colour, style, kind in zip(
            pair, means, LINES, STYLES, ("same person", "two people"), strict=False
        ):
            look = {"color": colour, "density": True, "bins": bins}
            axis.hist(part, alpha=0.35, **look)
            axis.hist(part, histtype="step", linewidth=1.8, linestyle=style, **look)
            axis.axvline(mean, ymax=0.74, color=colour, linewidth=2.2, linestyle=style,
                         label=f"{kind}: mean {mean:#.3g}")  # fmt: skip
        _gap(axis, *means, np.sqrt(np.mean([part.var() for part in pair])))
        axis.set_ylim(0, 1.45 * axis.get_ylim()[1])  # room for the legend and the gap
        axis.set_title(name, fontsize=14)
        axis.set_xlabel("cosine distance, visible to infrared (0 to 2)", fontsize=12)
        axis.legend(fontsize=12, loc="upper left")
    axes[0].set_ylabel("density of pairs", fontsize=12)
    return figure


def _gap(axis: Axes, low: float, high: float, deviation: float) -> None:
    """An arrow between two means, above the curves, with its length."""
    gap = high - low
    label = f"gap {gap:#.3g} = {gap / deviation:.1f} σ" if deviation else f"gap {gap:#.3g}"
    height = axis.get_xaxis_transform()  # x in distances, y as a part of the axis
    style = {"xycoords": height, "textcoords": height}
    arrow = {"arrowstyle": "<->", "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", (low, 0.74), (high, 0.74), arrowprops=arrow, **style)
    axis.text((low + high) / 2, 0.75, label, transform=height, ha="center",
              va="bottom", fontsize=13)  # fmt: skip


def heat_maps(runs: Mapping[str, tuple], people: Sequence[str], title: str) -> Figure:
    """Pictures of the same people in both modalities, and below them, a row a run, where the run
    looks (Fig. 8, mrda; Fig. 3, crossvit_csa).

    Parameters
    ----------
    runs : dict of (pictures, maps, grid)
        For each name, as `retrieval.explain.person_maps` returns them; the pictures of all are the
        same.
    people : labels of the n people
    """
    pictures = next(iter(runs.values()))[0]
    widths = [1, 1, 0.25] * len(people)
    figure = Figure(figsize=(0.84 * sum(widths), 1.8 * (1 + len(runs)) + 1.2), layout="constrained")
    figure.suptitle(title, fontsize=15)
    cells = figure.add_gridspec(1 + len(runs), len(widths), width_ratios=widths)
    labels = ["input"]
    for name, (_, _, grid) in runs.items():
        labels.append(name.replace("/", "/\n") + "\n{} × {} places".format(*grid))
    for person, modality in product(range(len(people)), pictures):
        picture = pictures[modality][person]
        drawn = [
            picture,
            *(overlay(picture, maps[modality][person]) for _, maps, _ in runs.values()),
        ]
        column = 3 * person + list(pictures).index(modality)
        axes = [figure.add_subplot(cells[row, column]) for row in range(len(drawn))]
        axes[0].set_title(f"{people[person]}\n{modality}", fontsize=11)
        for axis, content, label in zip(axes, drawn, labels, strict=True):
            axis.imshow(content)
            axis.set(xticks=[], yticks=[])
            if column == 0:
                axis.set_ylabel(label, fontsize=11)
    bar = figure.colorbar(ScalarMappable(cmap=HEAT), ax=figure.axes, fraction=0.02, pad=0.01)
    bar.set_ticks([0, 1], labels=["least", "most"], fontsize=11)
    figure.supxlabel(
        "how much a place speaks for the likeness, in each picture on a scale of its own: compare\n"
        "places, not pictures · enlarged smoothly from the few places of the network's last map",
        fontsize=12,
    )
    return figure


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map (h, w) from 0 to 1, enlarged smoothly, over the gray picture (H, W, 3): colour is left
    to the map alone, and shows the more the hotter. Returns (H, W, 3) uint8."""
    height, width = picture.shape[:2]
    large = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.BICUBIC)
    heat = np.clip(gaussian_filter(np.asarray(large), 0.05 * width, mode="nearest"), 0, None)
    heat = heat / max(heat.max(), 1e-6)
    gray = np.asarray(Image.fromarray(picture).convert("L")) / 255
    share = 0.75 * heat[..., None] ** 0.5
    mixed = (1 - share) * gray[..., None] + share * HEAT(heat)[..., :3]
    return (255 * mixed).round().astype(np.uint8)


def method_dots(panels: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Rank-1 and mAP of several methods below one another, a panel for each dataset and search.

    Parameters
    ----------
    panels : {title: DataFrame}
        In the same order of rows, whose index names them: ``rank1``, ``mAP`` as fractions,
        ``rank1_std``, ``mAP_std``; NaN for none: without a deviation the mark is hollow.
    """
    names = next(iter(panels.values())).index
    size = (3.3 * len(panels) + 2.4, 0.34 * len(names) + 1.7)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, rows) in zip(axes, panels.items(), strict=True):
        for number, (measure, text) in enumerate({"rank1": "rank-1", "mAP": "mAP"}.items()):
            x, bar = (100 * rows[c].astype(float).to_numpy() for c in (measure, f"{measure}_std"))
            y = np.arange(len(names)) + 0.24 * (number - 0.5)
            look = {"color": LINES[number], "markersize": 5, "capsize": 3}
            axis.errorbar(x, y, xerr=bar, fmt="os"[number], label=text, **look)
            hollow(axis, x, y, bar, "os"[number])
        axis.set(xlabel="per cent, mean ± deviation", title=name, xlim=(0, 100))
        axis.grid(alpha=0.3)
        if not rows["rank1"].notna().any():
            axis.text(0.5, 0.5, "no finished run", ha="center", transform=axis.transAxes)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    marks = axes[0].get_legend_handles_labels()
    where = {"loc": "outside lower center", "ncols": 2, "fontsize": 11}
    figure.legend(*marks, title="hollow: a single run, no deviation", **where)
    return figure


def step_chart(panels: Mapping[str, pd.DataFrame], title: str, measure: str = "rank-1") -> Figure:
    """Steps, printed and measured with their intervals, a line each; the colour and the mark tell
    the verdict. ``panels`` has of `agreement.steps` those of one measure, dataset and search."""
    counts = [max(1, len(steps)) for steps in panels.values()]
    figure = Figure(
        figsize=(10, 0.25 * sum(counts) + 0.9 * len(panels) + 1.4), layout="constrained"
    )
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
    for axis, (name, steps) in zip(axes, panels.items(), strict=True):
        steps = steps.reset_index(drop=True)
        axis.axvline(0, color=NEUTRAL, linewidth=1)
        axis.plot(
            steps["printed"], steps.index, "D", color=NEUTRAL, markerfacecolor="none", zorder=5
        )
        for verdict, (colour, marker) in VERDICTS.items():
            found = steps[steps["verdict"] == verdict]
            half = (found["high"] - found["measured"]).fillna(0)
            look = {"fmt": marker, "color": colour, "capsize": 3, "markersize": 7}
            axis.errorbar(found["measured"], found.index, xerr=half, **look)
        axis.set_yticks(steps.index, steps["row"] + " over " + steps["over"], fontsize=8)
        axis.set(title=name, ylim=(len(steps) - 0.4, -0.6))
        axis.grid(axis="x", alpha=0.3)
        for artefact, group in steps.groupby("artefact", sort=False):
            axis.axhline(group.index[-1] + 0.5, color="#999999", linewidth=0.6)
            where = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 9}
            axis.text(1.01, group.index.to_numpy().mean(), artefact, **where)
    axes[-1].set_xlabel(f"step in {measure}, points")
    marks = [Line2D([], [], marker="D", markerfacecolor="none", color=NEUTRAL, label="printed")]
    marks += [Line2D([], [], marker=m, color=c, label=v) for v, (c, m) in VERDICTS.items()]
    for mark in marks:
        mark.set_linestyle("")
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=10)
    return figure

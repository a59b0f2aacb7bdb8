"""What notebook 50 draws."""

import pandas as pd
from matplotlib.figure import Figure

from reid_core.figures import LINES, NEUTRAL

HATCHES = ("", "//", "..", "xx", "--")


def step_bars(panels: dict[str, pd.DataFrame], title: str) -> Figure:
    """Steps as multiples of a bare ResNet's, stacked by part; of each panel a table with a row a
    method and a column a part."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (name, table) in zip(axes, panels.items(), strict=True):
        left = pd.Series(0.0, table.index)
        for part, colour, hatch in zip(table, LINES, HATCHES, strict=False):
            axis.barh(
                table.index, table[part], left=left, color=colour, label=part,
                hatch=hatch, edgecolor="white", linewidth=0,
            )  # fmt: skip
            left += table[part]
        for row, total in enumerate(left):
            axis.annotate(
                f"{total:.2f}", (total, row), (4, 0), textcoords="offset points", va="center",
                fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        axis.axvline(1, color=NEUTRAL, linestyle="--", linewidth=1)
        axis.set(xlabel="time, bare ResNet = 1", title=name, xlim=(0, 1.15 * left.max()))
    axes[0].invert_yaxis()  # shared by all
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def growth(table: pd.DataFrame, title: str) -> Figure:
    """Time and peak memory of the evaluator against the gallery's size: ``size``, ``seconds``,
    ``MiB`` and ``whole``, MiB of the whole similarity matrix."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    time, memory = figure.subplots(1, 2)
    time.plot(table["size"], table["seconds"], "o-", color=LINES[0], label="measured")
    linear = table["seconds"].iloc[-1] / table["size"].iloc[-1] * table["size"]
    time.plot(table["size"], linear, ":", color=NEUTRAL, label="in proportion to the size")
    memory.plot(table["size"], table["MiB"], "o-", color=LINES[0], label="measured, blockwise")
    memory.plot(
        table["size"], table["whole"], "--", color=LINES[1], label="whole similarity matrix"
    )
    for axis, label in ((time, "seconds"), (memory, "peak of memory (MiB)")):
        axis.set(xscale="log", yscale="log", xlabel="images in the gallery", ylabel=label)
        axis.legend(frameon=False, fontsize=9)
        axis.grid(alpha=0.3)
    return figure

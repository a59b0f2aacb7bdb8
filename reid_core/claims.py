"""What a table or a curve says: which row stands above which other one, and by how much.

A claim is a table with a line for each step of ``row`` over ``over``: COLUMNS, where the two
variants are "method/variant", re-ranked ones with the suffix RERANKED, and ``value`` and
``value_over`` are the printed numbers in per cent, NaN where the paper draws a curve and says no
more than which of its points is the highest.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import pandas as pd

from reid_core.retrieval.metrics import HEADLINE
from reid_core.retrieval.rerank import RERANKED
from reid_core.tables import published, reranked

COLUMNS = ["dataset", "mode", "metric", "row", "over", "variant", "variant_over"]
COLUMNS += ["value", "value_over"]


def ladder(paper: str, table: str, over: Literal["first", "above"] = "first") -> pd.DataFrame:
    """An ablation: each row of ``table`` over its first one, or over the one above it."""
    steps = []
    for group in _groups(_rows(paper, table, HEADLINE)):
        lines = group.to_dict("records")
        pairs = pairwise(lines) if over == "above" else [(lines[0], line) for line in lines[1:]]
        steps += [_step(line, below) for below, line in pairs]
    return pd.DataFrame(steps, columns=COLUMNS)


def above_others(
    paper: str,
    table: str,
    method: str,
    printed_in: str | None = None,
    metrics: Sequence[str] = HEADLINE,
) -> pd.DataFrame:
    """A choice, or a comparison: the row of the variant ``method`` over each other row of ``table``
    that is trained here. Its own numbers may stand in another of the paper's, ``printed_in``."""
    own = _rows(paper, printed_in or table, metrics).query("variant == @method")
    others = _rows(paper, table, metrics).query("variant != @method")
    steps = []
    for group in _groups(pd.concat([own, others])):
        top, *lines = group.to_dict("records")
        if top["variant"] == method:  # else the paper prints no such number of its method
            steps += [_step(top, line) for line in lines]
    return pd.DataFrame(steps, columns=COLUMNS)


def peaks(
    runs: Sequence[tuple[str, str]],
    tops: Mapping[str, Sequence[str]],
    modes: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """A curve: the point at which the paper has its best over each other point, in rank-1 and mAP.

    Parameters
    ----------
    runs : of the artefact
    tops : {best variant: the variants that are the other points of its curve}
    modes : {"sysu" or "regdb": searches}
    """
    steps = [
        {"dataset": kind, "mode": mode, "metric": metric, "variant": top, "variant_over": other}
        | {"row": top.split("/")[1], "over": other.split("/")[1]}
        for kind, searches in modes.items()
        for mode in searches
        for metric in ("rank1", "mAP")
        for top, others in tops.items()
        for other in others
        if other != top and (other, kind) in runs
    ]
    return pd.DataFrame(steps, columns=COLUMNS).astype({"value": float, "value_over": float})


def _rows(paper: str, table: str, metrics: Sequence[str]) -> pd.DataFrame:
    """The printed numbers of the rows that are trained here."""
    rows = published(paper).query("table == @table and variant != '' and metric in @metrics")
    again = reranked(rows).map({True: RERANKED, False: ""})
    return rows.assign(variant=rows["variant"] + again).dropna()


def _groups(rows: pd.DataFrame) -> list[pd.DataFrame]:
    return [group for _, group in rows.groupby(["dataset", "mode", "metric"], sort=False)]


def _step(row: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("dataset", "mode", "metric", "variant", "value")} | {
        "row": row["method"],
        "over": over["method"],
        "variant_over": over["variant"],
        "value_over": over["value"],
    }

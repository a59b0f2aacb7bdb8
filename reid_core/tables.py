"""The papers' printed numbers, and this project's measured ones beside them."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from reid_core import results
from reid_core.errors import ReidError
from reid_core.paths import PUBLISHED, shown
from reid_core.retrieval import candidates
from reid_core.retrieval.metrics import HEADLINE
from reid_core.retrieval.rerank import RERANKED

MISSING = "—"
MAIN = (  # of all variants those that stand for a method; the rows between are its ablation's
    "baselines/one-stream",
    "baselines/zero-padding",
    "baselines/two-stream",
    "baselines/two-stream-wrt",
    "baselines/agw",
    "mutual_prediction/baseline",
    "mutual_prediction/fgfl-cmimpl",
    "crossvit_csa/baseline",
    "crossvit_csa/ta-crossvit-csa-wt",
    "fprnet/resnet",
    "fprnet/fprnet",
    "multi_granularity/baseline",
    "multi_granularity/mgsa-msam",
    "mrda/baseline",
    "mrda/mrm-dam",
)
MODES = {kind: candidates.MODES[kind] for kind in ("sysu", "regdb")}  # the papers' datasets
COLUMNS = ["table", "method", "reference", "variant", "dataset", "mode", "metric", "value"]


def reranked(rows: pd.DataFrame) -> pd.Series:
    """Which of `published`'s rows were measured with re-ranking."""
    return rows["method"].str.endswith("reranking")


class PublishedError(ReidError, ValueError):
    """A file of a paper's printed numbers is not what it should be."""


def published(paper: str) -> pd.DataFrame:
    """The numbers printed in ``paper``'s tables, in per cent, one row a number.

    Columns: ``table`` ("T2"), ``method`` as printed, ``reference``, ``variant`` ("method/variant"
    of this project: our version of the row, empty for what is not trained here), ``dataset``
    ("sysu", "regdb"), ``mode``, ``metric``, ``value`` (NaN where the paper prints none).

    Raises
    ------
    PublishedError
        There is no such file, or it has other columns.
    """
    path = PUBLISHED / f"{paper}.csv"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PUBLISHED.glob("*.csv")))
        raise PublishedError(f"{shown(path)}: no such file; published numbers exist of {known}.")
    texts = [c for c in COLUMNS if c != "value"]
    types = dict.fromkeys(texts, str) | {"value": float}
    try:
        table = pd.read_csv(path, dtype=types, keep_default_na=False, na_values="")
    except ValueError as error:  # pandas' own are ValueErrors
        raise PublishedError(
            f"{shown(path)}: cannot be read ({error}), expected commas between columns and points "
            "in numbers. Restore it: git checkout results/published"
        ) from None
    if list(table) != COLUMNS:
        raise PublishedError(f"{shown(path)}: found columns {list(table)}, expected {COLUMNS}.")
    return table.fillna(dict.fromkeys(texts, ""))


def measured(
    profile: str, gallery: str = "agw", trial: int | None = None, rerank: bool = False
) -> pd.DataFrame:
    """`averages` of this machine's runs and the committed records of ``profile``."""
    return averages(results.table(profile), gallery, trial, rerank)


def averages(
    runs: pd.DataFrame, gallery: str = "agw", trial: int | None = None, rerank: bool = False
) -> pd.DataFrame:
    """Means over seeds of ``runs`` (of `results.table`), single-shot (see `results.averaged`), with
    ``variant`` as "method/variant". SYSU-MM01's results are those of ``gallery``; RegDB's are over
    all its trials that ran, or of ``trial``. Plain results only, or with ``rerank`` the re-ranked
    ones only, under their plain mode: for a printed row that says so.
    """
    table = results.averaged(runs if trial is None else runs[runs["trial"] == trial])
    chosen = table[(table["shots"] == 1) & table["gallery"].isin([gallery, "full"])]
    chosen = chosen[chosen["mode"].astype(str).str.endswith(RERANKED) == rerank]
    return chosen.assign(
        mode=chosen["mode"].str.removesuffix(RERANKED),
        variant=chosen["method"] + "/" + chosen["variant"],
    )


def beside(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """A paper's table as printed with the measured numbers beside it.

    Parameters
    ----------
    rows : DataFrame
        Of `published`, one table and one dataset of it.
    runs : DataFrame
        Of `measured`, of one dataset.

    Returns
    -------
    DataFrame of text
        One line for each printed one; under every mode, "paper" and "measured" for each metric:
        per cent, mean ± standard deviation where there are several runs, a dash where the paper
        prints no number or no run is finished. ``runs`` counts seeds or trials.
    """
    lines = {}
    for (method, reference), group in rows.groupby(["method", "reference"], sort=False):
        variant = group["variant"].iloc[0]
        line: dict[tuple[str, str, str], str | int] = {}
        found = runs[runs["variant"] == variant]
        for row in group.itertuples():
            ours = found[found["mode"] == row.mode]
            line[row.mode, row.metric, "paper"] = (
                MISSING if pd.isna(row.value) else f"{row.value:.2f}"
            )
            line[row.mode, row.metric, "measured"] = _spread(ours, row.metric)
        line["", "", "runs"] = int(found["runs"].max()) if len(found) else 0
        lines[f"{method} {reference}".strip()] = line
    table = pd.DataFrame.from_dict(lines, orient="index")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def _spread(found: pd.DataFrame, metric: str) -> str:
    if found.empty:
        return MISSING
    return percent(found.iloc[0], metric)


def percent(row: Mapping[str, Any], metric: str) -> str:
    """The mean and, of several runs, the deviation of ``metric``: "41.2 ± 3.7"; with a dagger, "†",
    where a run among them is ill (see ``health``)."""
    deviation = row[f"{metric}_std"]
    spread = "" if pd.isna(deviation) else f" ± {100 * deviation:.1f}"
    return f"{100 * row[metric]:.1f}{spread}{' †' if row['ill'] else ''}"


def listed(runs: pd.DataFrame, variants: list[str]) -> pd.DataFrame:
    """Variants that no paper prints, in their order: a line each, text as in `beside`, a dash where
    no run is finished. ``runs`` is `measured`'s, of one dataset and mode."""
    lines = {}
    for variant in variants:
        found = runs[runs["variant"] == variant]
        lines[variant] = {metric: _spread(found, metric) for metric in HEADLINE}
        lines[variant]["runs"] = int(found["runs"].sum())
    return pd.DataFrame.from_dict(lines, orient="index")


def headline(runs: pd.DataFrame, kind: str, mode: str) -> pd.DataFrame:
    """The variants of MAIN as `listed`, and what each one's own paper prints of it.

    Parameters
    ----------
    runs : DataFrame
        Of `measured`, of one dataset and mode.
    kind, mode : str
        "sysu" or "regdb", and the search whose printed numbers stand beside.
    """
    lines = listed(runs, list(MAIN))
    papers = [published(path.stem).assign(paper=path.stem) for path in PUBLISHED.glob("*.csv")]
    printed = pd.concat(papers).query("dataset == @kind and mode == @mode")
    own = printed["variant"].str.split("/").str[0] == printed["paper"]
    printed = printed[own & ~reranked(printed)].dropna(subset="value")
    values = printed.drop_duplicates(["variant", "metric"]).set_index(["variant", "metric"])
    for metric in ("rank1", "mAP"):
        found = [values["value"].get((name, metric)) for name in MAIN]
        lines[f"{metric}, paper"] = [MISSING if v is None else f"{v:.2f}" for v in found]
    return lines


def sweep(runs: pd.DataFrame, variants: list[str], field: str) -> pd.DataFrame:
    """Of `measured`, the rows of ``variants`` ("method/variant"), with the value of the model's
    setting ``field`` in a column of that name, in ascending order. Of two variants that come to the
    same value the one with more runs is taken."""
    chosen = runs[runs["variant"].isin(variants)]
    values = [json.loads(text)["model"][field] for text in chosen["settings"]]
    points = chosen.assign(**{field: values}).sort_values([field, "runs"])
    return points.drop_duplicates(["dataset", "mode", field], keep="last")


def steps(rows: pd.DataFrame, runs: pd.DataFrame, *, above: bool = False) -> pd.DataFrame:
    """What each row of an ablation adds to the first one (with ``above``, to the row above it), in
    points, printed and measured; "±" is the row's standard deviation over seeds, below which a step
    is none. Arguments as of `beside`; NaN where a number is missing."""
    columns = {}
    for (mode, metric), group in rows.groupby(["mode", "metric"], sort=False):
        if metric in HEADLINE:
            found = runs[runs["mode"] == mode].set_index("variant").reindex(group["variant"])
            found = found[[metric, f"{metric}_std"]].astype(float).mul(100).round(2)
            values = {"paper": group["value"], "measured": found[metric]}
            for name, column in values.items():
                of = column.set_axis(group["method"])
                columns[mode, metric, name] = of.diff() if above else of - of.iloc[0]
            columns[mode, metric, "±"] = found[f"{metric}_std"].set_axis(group["method"])
    return pd.DataFrame(columns).iloc[1:].round(1).rename_axis(None)

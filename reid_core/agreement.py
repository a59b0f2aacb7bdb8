"""Does what was measured agree with what the papers claim? Step by step, and for each artefact.

A *step* is the difference of two rows. Its 95 % interval is that of Student's t for the difference
of two means, with the rows' common variance over seeds. The words for a step, by this rule:

- **not measured**: a run of one of the rows is missing;
- **one seed**: one of the rows has a single run, so that nothing is known of its spread: the step's
  sign is that of a draw, also where the other row is the mean of several;
- **inside the spread**: the interval holds zero;
- **agrees**, **disagrees**: it does not, and the step has the paper's sign, or the other one.

Its size: **as printed** where the interval holds the paper's step, else **smaller** or **larger**
in the paper's direction. Of steps that are none, one in twenty gets an interval without zero.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, t

from reid_core.artefacts import artefacts
from reid_core.drawings import Artefact, Place
from reid_core.retrieval.metrics import METRICS
from reid_core.retrieval.rerank import RERANKED
from reid_core.tables import MISSING, averages

STEP_WORDS = ("agrees", "disagrees", "inside the spread", "one seed", "not measured")
SHOWN = ["artefact", "dataset", "mode", "metric", "row", "over", "printed", "measured"]  # of a step
SHOWN += ["low", "high", "runs", "runs_over", "verdict", "size"]
PICTURE, ALONE = "picture: look", "nothing to compare"
_FEW = 3  # rows, below which an order says nothing


def steps(place: Place, runs: pd.DataFrame) -> pd.DataFrame:
    """Every step that an artefact claims, printed beside measured.

    Parameters
    ----------
    place : Place
        Whose datasets, gallery and profile.
    runs : DataFrame
        Of `results.table`.

    Returns
    -------
    DataFrame
        ``artefact``, ``dataset``, ``mode``, ``metric``, ``row``, ``over``, the variants of both,
        ``printed`` and ``measured`` (points of per cent), ``low`` and ``high`` (the interval),
        ``runs`` and ``runs_over``, ``verdict`` and ``size`` ("" where there is none), the values of
        both rows (``value``, ``value_over``: printed; ``mean``, ``mean_over``: measured).
    """
    claiming = [a for a in artefacts().values() if a.claim is not None and len(a.claim)]
    means = {trial: _means(place, runs, trial) for trial in {a.trial for a in claiming}}
    claimed = [
        compare(_placed(a.claim, place), means[a.trial]).assign(artefact=a.name) for a in claiming
    ]
    return pd.concat(claimed, ignore_index=True)


def compare(claim: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """The steps of ``claim`` (see `claims`) with their measured sides, from ``means``: a line for
    each dataset, mode, metric and variant with ``mean``, ``deviation`` (per cent) and ``runs``."""
    place = ["dataset", "mode", "metric"]
    beside = means.rename(columns=lambda c: c if c in place else f"{c}_over")
    found = claim.merge(means, "left", [*place, "variant"])
    found = found.merge(beside, "left", [*place, "variant_over"])
    found["printed"] = found["value"] - found["value_over"]
    found["measured"] = found["mean"] - found["mean_over"]
    half = _half_interval(found)
    found["low"], found["high"] = found["measured"] - half, found["measured"] + half
    counts = found[["runs", "runs_over"]].fillna(0).astype(int)
    found[["runs", "runs_over"]] = counts
    found["verdict"] = [_verdict(step) for step in found.to_dict("records")]
    found["size"] = [_size(step) for step in found.to_dict("records")]
    return found


def _half_interval(step: pd.DataFrame) -> pd.Series:
    """Half the 95 % interval of Student's t for a difference of two means; NaN where a side has no
    spread."""
    spare, spare_over = step["runs"] - 1, step["runs_over"] - 1
    freedom = spare + spare_over
    squares = spare * step["deviation"] ** 2 + spare_over * step["deviation_over"] ** 2
    error = np.sqrt(squares / freedom * (1 / step["runs"] + 1 / step["runs_over"]))
    return error * t.ppf(0.975, freedom)


def _claimed_sign(step: Mapping[str, float]) -> float:
    """A curve prints no number, and claims that its best point is the higher one."""
    return 1.0 if np.isnan(step["printed"]) else np.sign(step["printed"])


def _verdict(step: Mapping[str, float]) -> str:
    if np.isnan(step["measured"]):
        return "not measured"
    if np.isnan(step["low"]):
        return "one seed"
    if step["low"] <= 0 <= step["high"]:
        return "inside the spread"
    return "agrees" if np.sign(step["measured"]) == _claimed_sign(step) else "disagrees"


def _size(step: Mapping[str, float]) -> str:
    if np.isnan(step["low"]) or np.isnan(step["printed"]):
        return ""
    if step["low"] <= step["printed"] <= step["high"]:
        return "as printed"
    beyond = step["measured"] - step["printed"]
    return "larger" if beyond * _claimed_sign(step) > 0 else "smaller"


def orders(claimed: pd.DataFrame) -> pd.DataFrame:
    """For each artefact, dataset, mode and metric of `steps`, and each curve: how its rows lie.

    ``rows`` of them are measured, ``of`` all; ``tau`` is Kendall's rank correlation of printed and
    measured values (NaN below three rows, and of a curve); ``best`` says whether no measured row is
    above the paper's best (None where that one, or every other, is not measured).
    """
    place = ["artefact", "dataset", "mode", "metric"]
    curve = claimed["variant"].where(claimed["printed"].isna(), "")
    lines = [
        dict(zip(place, name, strict=False)) | _order(group)
        for name, group in claimed.groupby([*place, curve], sort=False)
    ]
    return pd.DataFrame(lines, columns=[*place, "rows", "of", "tau", "best"])


def _order(group: pd.DataFrame) -> dict[str, float | bool | None]:
    sides = [group[[f"{c}{side}" for c in ("variant", "value", "mean")]] for side in ("", "_over")]
    rows = pd.concat([side.set_axis(["variant", "value", "mean"], axis=1) for side in sides])
    rows = rows.drop_duplicates("variant")
    found = rows.dropna(subset="mean")
    if rows["value"].isna().all():
        top = rows["variant"] == group["variant"].iloc[0]
    else:
        top = rows["value"] == rows["value"].max()
    ours = rows.loc[top, "mean"].max()
    known = len(found) > 1 and not np.isnan(ours)
    enough = len(found) >= _FEW and found["value"].notna().all()
    return {
        "rows": len(found),
        "of": len(rows),
        "tau": kendalltau(found["value"], found["mean"]).statistic if enough else np.nan,
        "best": bool(ours >= found["mean"].max()) if known else None,
    }


def overview(place: Place, runs: pd.DataFrame, claimed: pd.DataFrame) -> pd.DataFrame:
    """All artefacts, a line each, as text: ``runs`` that are measured, ``verdict``, steps by their
    words, how many of the measured ones have the paper's ``sign`` and of the judged ones its
    ``size``, the median ``tau`` and how often the paper's ``best`` row is ours too (see `orders`).

    The verdict: **agrees** where all steps that have a spread do, **agrees in part** where some do
    and the others are inside the spread, **disagrees** where some do and none agrees, **mixed**
    where some agree and some disagree; else **inside the spread**, **one seed** or **not
    measured**, the first of which some step says. A picture has to be looked at, and a table that
    has no second trained row leaves nothing to compare.
    """
    order = orders(claimed)
    lines = {}
    for name, artefact in artefacts().items():
        own, rows = claimed.query("artefact == @name"), order.query("artefact == @name")
        signed = own[own["printed"] != 0].dropna(subset="measured")
        sign = np.sign(signed["measured"]) == [_claimed_sign(s) for s in signed.to_dict("records")]
        wanted = {(place.dataset(kind), variant) for variant, kind in artefact.runs}
        wanted = {run for run in wanted if run[0]}
        there = runs if artefact.trial is None else runs[runs["trial"] == artefact.trial]
        there = set(zip(there["dataset"], there["method"] + "/" + there["variant"], strict=True))
        count = own["verdict"].value_counts()
        lines[name] = {
            "title": artefact.title,
            "runs": f"{len(wanted & there)} of {len(wanted)}",
            "verdict": _overall(artefact, count, wanted <= there),
            **{word: str(count.get(word, 0)) if len(own) else MISSING for word in STEP_WORDS},
            "sign": _share(pd.Series(sign)),
            "size": _share(own.loc[own["size"] != "", "size"] == "as printed"),
            "tau": MISSING if rows["tau"].isna().all() else f"{rows['tau'].median():.2f}",
            "best": _share(rows["best"].dropna().astype(bool)),
        }
    return pd.DataFrame.from_dict(lines, orient="index")


def _overall(artefact: Artefact, count: Mapping[str, int], complete: bool) -> str:
    agrees, disagrees, inside, one, _ = (count.get(word, 0) for word in STEP_WORDS)
    if artefact.claim is None:
        return PICTURE if complete else "not measured"
    if not sum(count):
        return ALONE
    if agrees and disagrees:
        return "mixed"
    if agrees:
        return "agrees in part" if inside else "agrees"
    found = {"disagrees": disagrees, "inside the spread": inside, "one seed": one}
    return next((word for word, number in found.items() if number), "not measured")


def _share(yes: pd.Series) -> str:
    return f"{yes.sum()} of {len(yes)}" if len(yes) else MISSING


def _placed(claim: pd.DataFrame, place: Place) -> pd.DataFrame:
    """With the datasets of ``place``; without those that it leaves out."""
    placed = claim.assign(dataset=claim["dataset"].map(place.dataset))
    return placed[placed["dataset"] != ""]


def _means(place: Place, runs: pd.DataFrame, trial: int | None) -> pd.DataFrame:
    """What `compare` takes."""
    plain = averages(runs, place.gallery, trial)
    again = averages(runs, place.gallery, trial, rerank=True)
    wide = pd.concat([plain, again.assign(variant=again["variant"] + RERANKED)])
    key = ["dataset", "mode", "variant", "runs"]
    parts = [
        wide[key].assign(
            metric=measure,
            mean=100 * wide[measure].astype(float),
            deviation=100 * wide[f"{measure}_std"].astype(float),
        )
        for measure in METRICS
    ]
    # of an empty table pandas knows no types
    return pd.concat(parts).astype({"mean": float, "deviation": float, "runs": float})

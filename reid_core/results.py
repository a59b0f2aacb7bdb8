"""What all finished runs measured, as one table, and its means over seeds and trials."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from reid_core import records
from reid_core.errors import ReidError
from reid_core.methods import configure
from reid_core.paths import runs_folder
from reid_core.records import RunError
from reid_core.retrieval.metrics import METRICS

_VARIANT = ("profile", "dataset", "method", "variant")
_RUN = (*_VARIANT, "seed", "trial")
_EVALUATION = (*_VARIANT, "protocol", "mode", "gallery", "shots")


def table(profile: str = "*", *, records_only: bool = False) -> pd.DataFrame:
    """Every finished run, one row per evaluation: this machine's own runs first, for the others
    the committed records; the column ``source`` ("run" or "record") says which, and ``settings``
    (JSON) is all that seeds and trials of one variant have in common, and ``ill`` says whether its
    training failed in some way (see ``health``). Records of a variant that has
    runs with other settings here are left out: the two cannot be averaged. So are runs that were
    measured on validation identities. With ``records_only`` this machine's runs are not looked
    at."""
    rows: dict[str, list[dict[str, Any]]] = {}
    places = {"record": records.REPORTED / "runs", "run": runs_folder()}
    if records_only:
        del places["run"]
    for source, root in places.items():
        for path in sorted(root.glob(f"{profile}/*/*/*/*/metrics.json")):
            name = path.parent.relative_to(root).as_posix()
            rows[name] = [row | {"source": source} for row in _evaluations(path)]
    every = [row for name in sorted(rows) for row in rows[name]]
    own = {_variant(row): _settings(row) for row in every if row["source"] == "run"}
    every = [
        row
        for row in every
        if row["source"] == "run" or not _differing(own.get(_variant(row), {}), _settings(row))
    ]
    return pd.DataFrame(every) if every else pd.DataFrame(columns=[*_RUN, "settings", "source"])


def of_test(content: dict[str, Any]) -> bool:
    """Whether a ``metrics.json`` has the numbers of test identities: those of validation ones are
    no result."""
    return (records.DEFAULTS | content["config"])["evaluate_on"] == "test"


def require_alike(runs: pd.DataFrame) -> None:
    """Of rows of `table`.

    Raises
    ------
    RunError
        Two runs of a variant have other settings or data, so that their mean says nothing.
    """
    for name, group in runs.groupby(list(_VARIANT), sort=False):
        known: dict[str, Any] = {}
        for row in group.drop_duplicates("settings").to_dict("records"):
            if differing := _differing(known, _settings(row)):
                raise RunError(
                    f"{'/'.join(name)}: seed {row['seed']}, trial {row['trial']} ({row['source']}) "
                    "has other settings or data than the runs before it: "
                    f"{', '.join(differing)} differ. They cannot be averaged; take one of them "
                    "out, or run it again."
                )
            known |= _settings(row)


def averaged(runs: pd.DataFrame) -> pd.DataFrame:
    """Over seeds (and RegDB's trials), for each evaluation of a variant in ``runs`` (see `table`):
    the mean of every measure as a fraction, its standard deviation (of the sample, suffix
    ``_std``), the number ``runs``, how many of them are ``ill``, and the ``settings`` and sources.
    Raises as `require_alike` does."""
    if runs.empty:
        columns = [*_EVALUATION, "runs", *METRICS, *(f"{m}_std" for m in METRICS)]
        return pd.DataFrame(columns=[*columns, "ill", "settings", "source"])
    require_alike(runs)
    grouped = runs.groupby(list(_EVALUATION), sort=False)
    mean = grouped[list(METRICS)].mean()
    spread = grouped[list(METRICS)].std(ddof=1).add_suffix("_std")
    settings = grouped["settings"].first()
    source = grouped["source"].agg(lambda values: " and ".join(sorted(set(values))))
    ill = grouped["ill"].sum()
    columns = [grouped.size().rename("runs"), mean, spread, ill, settings, source]
    return pd.concat(columns, axis=1).reset_index()


def _evaluations(path: Path) -> list[dict[str, Any]]:
    """The rows of `table` that one ``metrics.json`` makes: of test identities."""
    content = records.read_json(path)
    try:
        if not of_test(content):
            return []
        run = {key: content["config"][key] for key in _RUN} | {"settings": _common(content)}
        run["ill"] = bool(content.get("health", {}).get("ill"))
        return [run | result for result in content["results"]]
    except (KeyError, TypeError) as error:
        raise records.damaged(path, error) from None


def _common(content: dict[str, Any]) -> str:
    config = {k: v for k, v in content["config"].items() if k not in ("seed", "trial")}
    if not config["dataset"].endswith("regdb"):  # there each trial has data of its own
        config["data"] = content["data"]
    return json.dumps(config, sort_keys=True)


def _variant(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in _VARIANT)


def _settings(row: dict[str, Any]) -> dict[str, Any]:
    """All that a row's run was. A setting of every run that did not exist yet had its default's
    effect, one of the method's own what the variant has today."""
    own = _today(*_variant(row))
    return own | records.DEFAULTS | records.flat(json.loads(row["settings"]))


@cache
def _today(profile: str, dataset: str, method: str, variant: str) -> dict[str, Any]:
    try:
        return configure(method, variant, profile, dataset=dataset).model
    except ReidError:  # a record of what exists no more
        return {}


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What differs of two runs' settings. One that only one of them has is not compared."""
    return sorted(key for key in one.keys() & other.keys() if one[key] != other[key])

"""A table or figure of a paper, and the ways in which one is drawn from the runs it stands on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import PIL.Image
from IPython.display import Image, display
from matplotlib.figure import Figure

from reid_core import figures, records, results
from reid_core.config import RunConfig
from reid_core.methods import configure
from reid_core.notebooks import execute
from reid_core.paths import NOTEBOOKS, runs_folder, write_atomically
from reid_core.tables import MISSING, beside, measured, published, reranked, steps, sweep


@dataclass(frozen=True)
class Place:
    """Whose runs an artefact shows; an empty dataset is left out."""

    profile: str
    sysu: str  # the dataset beside the SYSU-MM01 numbers
    regdb: str
    gallery: str = "agw"  # how SYSU-MM01's is drawn
    seed: int = 0  # of the runs whose pictures are shown
    data: str = ""  # the dataset's folder, where it is not data/<dataset>

    def dataset(self, kind: str) -> str:
        return {"sysu": self.sysu, "regdb": self.regdb}[kind]


Drawn = dict[str, pd.DataFrame | Figure | Path]  # by file name; a path is drawn already


@dataclass(frozen=True, eq=False)  # tables have no one answer to ==
class Artefact:
    """A table or figure of a paper."""

    paper: str
    number: str  # "T4" or "F3"
    title: str
    runs: tuple[tuple[str, str], ...]  # ("method/variant", "sysu" or "regdb")
    drawing: Callable[[Place, "Artefact"], Drawn]
    claim: pd.DataFrame | None = None  # see `claims`; of what has to be looked at there is none
    trial: int | None = None  # of RegDB's ten, where the paper measures one
    pictures: tuple[str, ...] = ()  # of notebook 30, its first run beside its second
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by method: what its
    # notebook must be told beyond which run it is

    @property
    def name(self) -> str:
        return f"{self.paper}-{self.number}"

    def draw(self, place: Place) -> Drawn:
        """Tables and figures from the runs that are finished, for the others there are dashes;
        nothing where ``place`` has none of its datasets."""
        return self.drawing(place, self) if any(place.dataset(k) for _, k in self.runs) else {}

    def folder(self, place: Place) -> Path:
        return runs_folder() / place.profile / "figures" / self.paper

    def save(self, place: Place) -> dict[str, Path]:
        """Writes what it draws, tables as CSV, figures as PNG and SVG, and returns the paths."""
        return {name: self._written(place, name, d) for name, d in self.draw(place).items()}

    def show(self, place: Place) -> None:
        """Draws, writes and displays it in a notebook."""
        drawn = self.draw(place)
        if not drawn:
            print(
                f"{self.name}: {MISSING} (python -m reid_core reproduce {self.name} "
                f"--profile {place.profile} makes it)"
            )
        for name, thing in drawn.items():
            path = self._written(place, name, thing)
            if isinstance(thing, pd.DataFrame):
                print(name)
                display(thing)
            else:
                with PIL.Image.open(path) as picture:
                    width = min(920, round(0.65 * picture.width))
                display(Image(path, width=width, alt=f"{self.name}: {self.title}"))

    def _written(self, place: Place, name: str, thing: pd.DataFrame | Figure | Path) -> Path:
        if isinstance(thing, Figure):
            return figures.save(thing, self.folder(place), name)
        if isinstance(thing, pd.DataFrame):
            path = self.folder(place) / f"{name}.csv"
            write_atomically(path, thing.to_csv(lineterminator="\n"))
            return path
        return thing


def compared(place: Place, artefact: Artefact) -> Drawn:
    """The table as printed with the measured numbers beside it, one for each dataset."""
    rows = published(artefact.paper).query("table == @artefact.number")
    again = reranked(rows)
    whose = place.profile, place.gallery, artefact.trial
    parts = [(rows[~again], measured(*whose))]
    if again.any():  # a row of the same runs, their lists ranked anew
        parts.append((rows[again], measured(*whose, rerank=True)))
    drawn: Drawn = {}
    for kind in rows["dataset"].unique():
        if name := place.dataset(kind):
            lines = [beside(r[r["dataset"] == kind], m[m["dataset"] == name]) for r, m in parts]
            drawn[f"{artefact.number}_{name}"] = pd.concat(lines)
    return drawn


def ablated(
    place: Place,
    artefact: Artefact,
    labels: Sequence[str],
    over: Literal["first", "above", "none"] = "first",
) -> Drawn:
    """The table, its steps ``over`` the first row or the one above (see `steps`), and its rows as
    bars."""
    drawn = compared(place, artefact)
    rows = published(artefact.paper).query("table == @artefact.number")
    runs = measured(place.profile, place.gallery, artefact.trial)
    for kind, group in rows.groupby("dataset", sort=False):
        if over != "none" and (name := place.dataset(kind)):
            found = steps(group, runs[runs["dataset"] == name], above=over == "above")
            drawn[f"{artefact.number}_steps_{name}"] = found
    return drawn | bars(place, artefact, artefact.number, labels)


def bars(
    place: Place,
    artefact: Artefact,
    table: str,
    labels: Sequence[str],
) -> Drawn:
    """Rank-1 of the rows of ``table`` that are measured here, printed and measured side by side, a
    panel for each dataset and mode."""
    rows = published(artefact.paper).query("table == @table and metric == 'rank1'")
    rows = rows[(rows["variant"] != "") & ~reranked(rows)]
    runs = measured(place.profile, place.gallery, artefact.trial)
    panels = {}
    for (kind, mode), group in rows.groupby(["dataset", "mode"], sort=False):
        if name := place.dataset(kind):
            ours = runs[(runs["dataset"] == name) & (runs["mode"] == mode)].set_index("variant")
            found = ours.reindex(group["variant"])[["rank1", "rank1_std"]].astype(float)
            values = group["value"], 100 * found["rank1"], 100 * found["rank1_std"]
            panels[f"{name}, {mode}"] = values
    title = f"{artefact.paper}, {artefact.number}: {artefact.title}, profile {place.profile}"
    return {artefact.number: figures.ablation_bars(panels, labels, title)}


def cmc(place: Place, artefact: Artefact) -> Drawn:
    """CMC curves of the artefact's runs in all-search, means over the seeds there are."""
    names, runs = [name for name, _ in artefact.runs], results.table(place.profile)
    columns = dict.fromkeys([*runs, "mode", "gallery", "shots", "cmc"])
    runs = runs.reindex(columns=list(columns))  # also where there is no run at all
    runs = runs[(runs["method"] + "/" + runs["variant"]).isin(names)]
    runs = runs.query("dataset == @place.sysu and mode == 'all' and shots == 1")
    runs = runs[runs["gallery"] == place.gallery]
    results.require_alike(runs)
    found = runs.groupby(["method", "variant"])["cmc"]
    means = {"/".join(name): np.mean(group.tolist(), axis=0) for name, group in found}
    curves = {name: means[name] for name in names if name in means}
    title = f"{artefact.paper}, {artefact.number}: {place.sysu}, all-search, {place.profile}"
    return {artefact.number: figures.cmc_curves(curves, title)} if curves else {}


def converged(place: Place, artefact: Artefact) -> Drawn:
    """Accuracy against epochs and seconds, of those runs that were measured after every epoch."""
    histories = {}
    for name, kind in artefact.runs:
        at = {"dataset": place.dataset(kind), "seed": place.seed}
        history = records.history(configure(*name.split("/"), place.profile, **at))
        if history is not None and "rank1" in history:
            histories[name] = history
        elif history is not None:
            print(
                f"{artefact.name}: {name} was trained without measuring its epochs (the notebook's "
                "parameter curve); delete its folder and reproduce it again"
            )
    title = f"{artefact.paper}, {artefact.number}: {place.sysu}, all-search, seed {place.seed}"
    return {artefact.number: figures.convergence(histories, title)} if histories else {}


def swept(
    place: Place,
    artefact: Artefact,
    fields: Mapping[str, tuple[str, list[str]]],
    modes: Mapping[str, Sequence[str]],
) -> Drawn:
    """Of each of ``fields`` ({setting: (its label, variants)}) a curve, a panel a dataset, and the
    points as a table."""
    runs = measured(place.profile, place.gallery, artefact.trial)
    drawn: Drawn = {}
    for setting, (label, variants) in fields.items():
        panels = {}
        for kind, searches in modes.items():
            if name := place.dataset(kind):
                chosen = runs[(runs["dataset"] == name) & runs["mode"].isin(searches)]
                panels[name] = sweep(chosen, variants, setting)
        title = f"{artefact.paper}, {artefact.number}: {artefact.title}, profile {place.profile}"
        chart = figures.sweep_curves(panels, setting, label, title)
        drawn[f"{artefact.number}_{setting}"] = chart
        points = pd.concat(panels.values()).set_index(["dataset", "mode", setting])
        measures = ["rank1", "rank1_std", "mAP", "mAP_std", "mINP", "mINP_std"]
        table = points[measures].astype(float).mul(100).round(1).assign(runs=points["runs"])
        drawn[f"{artefact.number}_{setting}_points"] = table
    return drawn


def looked_at(place: Place, artefact: Artefact) -> Drawn:
    """What notebook 30 draws of the first of the artefact's runs beside the second, where both are
    finished on this machine: records hold no weights. Runs measured anew are drawn anew."""
    runs = _pair(place, artefact)
    if not all(records.finished(run) for run in runs):
        return {}
    paths = picture_paths(place, artefact)
    measured = max((records.folder_of(run) / "metrics.json").stat().st_mtime for run in runs)
    if not all(path.is_file() and path.stat().st_mtime >= measured for path in paths.values()):
        executed = records.figures_folder(*runs) / "30_figures.ipynb"
        parameters = {"profile": place.profile, "dataset": runs[0].dataset, "seed": place.seed}
        names = {"method": artefact.runs[0][0], "baseline": artefact.runs[1][0]}
        execute(NOTEBOOKS / "30_figures.ipynb", executed, parameters | names | {"data": place.data})
    return paths


def picture_paths(place: Place, artefact: Artefact) -> dict[str, Path]:
    """Where the artefact's pictures lie once they are drawn."""
    folder = records.figures_folder(*_pair(place, artefact))
    return {f"{artefact.number}_{name}": folder / f"{name}.png" for name in artefact.pictures}


def _pair(place: Place, artefact: Artefact) -> list[RunConfig]:
    (method, kind), (baseline, _) = artefact.runs
    at = {"dataset": place.dataset(kind), "seed": place.seed}
    return [configure(*name.split("/"), place.profile, **at) for name in (method, baseline)]

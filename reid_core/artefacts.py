"""The papers' tables and figures: of each the runs that regenerate it, and how it is drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Image, display
from matplotlib.figure import Figure

from reid_core import figures, records
from reid_core.methods import configure, multi_granularity, mutual_prediction
from reid_core.notebooks import execute
from reid_core.paths import NOTEBOOKS, results_folder, write_atomically
from reid_core.tables import MISSING, beside, measured, published, steps, sweep


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


@dataclass(frozen=True)
class Artefact:
    """A table or figure of a paper."""

    paper: str
    number: str  # "T4" or "F3"
    title: str
    runs: tuple[tuple[str, str], ...]  # ("method/variant", "sysu" or "regdb")
    drawing: Callable[[Place, "Artefact"], Drawn]

    @property
    def name(self) -> str:
        return f"{self.paper}-{self.number}"

    def draw(self, place: Place) -> Drawn:
        """Tables and figures from the runs that are finished; for the others there are dashes."""
        return self.drawing(place, self)

    def folder(self, place: Place) -> Path:
        return results_folder() / "runs" / place.profile / "figures" / self.paper

    def save(self, place: Place) -> dict[str, Path]:
        """Writes what it draws, tables as CSV, figures as PNG and SVG, and returns the paths."""
        return {name: self._written(place, name, d) for name, d in self.draw(place).items()}

    def show(self, place: Place) -> None:
        """Draws, writes and displays it in a notebook."""
        drawn = self.draw(place)
        if not drawn:
            print(f"{self.name}: {MISSING} (python -m reid_core reproduce {self.name} makes it)")
        for name, thing in drawn.items():
            path = self._written(place, name, thing)
            if isinstance(thing, pd.DataFrame):
                print(name)
                display(thing)
            else:
                display(Image(path, width=900))

    def _written(self, place: Place, name: str, thing: pd.DataFrame | Figure | Path) -> Path:
        if isinstance(thing, Figure):
            return figures.save(thing, self.folder(place), name)
        if isinstance(thing, pd.DataFrame):
            path = self.folder(place) / f"{name}.csv"
            write_atomically(path, thing.to_csv(lineterminator="\n"))
            return path
        return thing


def _compared(place: Place, artefact: Artefact, trial: int | None = None) -> Drawn:
    """The table as printed with the measured numbers beside it, one for each dataset."""
    rows = published(artefact.paper).query("table == @artefact.number")
    runs = measured(place.profile, place.gallery, trial)
    drawn: Drawn = {}
    for kind, group in rows.groupby("dataset", sort=False):
        if name := place.dataset(kind):
            drawn[f"{artefact.number}_{name}"] = beside(group, runs[runs["dataset"] == name])
    return drawn


def _ablated(
    place: Place,
    artefact: Artefact,
    labels: Sequence[str],
    trial: int | None = None,
    above: bool = False,
) -> Drawn:
    """The table, its steps (see `steps`), and rank-1 of its rows as bars beside the printed one."""
    drawn = _compared(place, artefact, trial)
    rows = published(artefact.paper).query("table == @artefact.number")
    runs = measured(place.profile, place.gallery, trial)
    panels = {}
    for (kind, mode), group in rows.groupby(["dataset", "mode"], sort=False):
        if name := place.dataset(kind):
            ours = runs[(runs["dataset"] == name) & (runs["mode"] == mode)]
            drawn[f"{artefact.number}_steps_{name}"] = steps(group, ours, above=above)
            printed = group[group["metric"] == "rank1"].set_index("variant")["value"]
            found = ours.set_index("variant").reindex(printed.index)[["rank1", "rank1_std"]]
            found = found.astype(float).mul(100)
            panels[f"{name}, {mode}"] = printed, found["rank1"], found["rank1_std"]
    title = f"{artefact.paper}, {artefact.number}: {artefact.title}, profile {place.profile}"
    return drawn | {artefact.number: figures.ablation_bars(panels, labels, title)}


def _swept(
    place: Place,
    artefact: Artefact,
    fields: Mapping[str, tuple[str, list[str]]],
    modes: Mapping[str, Sequence[str]],
    trial: int | None = None,
) -> Drawn:
    """Of each of ``fields`` ({setting: (its label, variants)}) a curve, a panel a dataset, and the
    points as a table."""
    runs = measured(place.profile, place.gallery, trial)
    drawn: Drawn = {}
    for field, (label, variants) in fields.items():
        panels = {}
        for kind, searches in modes.items():
            if name := place.dataset(kind):
                chosen = runs[(runs["dataset"] == name) & runs["mode"].isin(searches)]
                panels[name] = sweep(chosen, variants, field)
        title = f"{artefact.paper}, {artefact.number}: {artefact.title}, profile {place.profile}"
        chart = figures.sweep_curves(panels, field, label, title)
        drawn[f"{artefact.number}_{field}"] = chart
        points = pd.concat(panels.values()).set_index(["dataset", "mode", field])
        columns = ["rank1", "rank1_std", "mAP", "mAP_std", "mINP", "runs"]
        drawn[f"{artefact.number}_{field}_points"] = points[columns].astype(float).round(3)
    return drawn


def _looked_at(place: Place, artefact: Artefact, files: Sequence[str]) -> Drawn:
    """What notebook 30 draws of the first of the artefact's runs beside the second, where both are
    finished on this machine: records hold no weights."""
    (method, kind), (baseline, _) = artefact.runs
    at = {"dataset": place.dataset(kind), "seed": place.seed}
    runs = [configure(*name.split("/"), place.profile, **at) for name in (method, baseline)]
    if not all(records.finished(run) for run in runs):
        return {}
    folder = records.figures_folder(runs[0])
    parameters = {"profile": place.profile, "data": place.data} | at
    if not all((folder / f"{name}.png").is_file() for name in files):
        executed = folder / "30_figures.ipynb"
        names = {"method": method, "baseline": baseline}
        execute(NOTEBOOKS / "30_figures.ipynb", executed, parameters | names)
    return {f"{artefact.number}_{name}": folder / f"{name}.png" for name in files}


def _of_table(paper: str, number: str) -> tuple[tuple[str, str], ...]:
    """The runs of the rows that this project trains."""
    rows = published(paper).query("table == @number and variant != ''")
    return tuple(dict.fromkeys(zip(rows["variant"], rows["dataset"], strict=True)))


def _table(paper: str, number: str, title: str, **of: Any) -> Artefact:
    """An ablation, whose rows ``labels`` names, is drawn too (see `_ablated`)."""
    drawing = partial(_ablated if "labels" in of else _compared, **of)
    return Artefact(paper, number, title, _of_table(paper, number), drawing)


def _look(
    paper: str, number: str, title: str, pair: tuple[tuple[str, str], ...], files: Sequence[str]
) -> Artefact:
    """Pictures of the first of ``pair`` beside the second."""
    return Artefact(paper, number, title, pair, partial(_looked_at, files=files))


def _distinct(points: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Of runs that come to the same settings the first: a dataset's own value is a point of a
    sweep, and the full method's run."""
    found: dict[str, tuple[str, str]] = {}
    for name, kind in points:
        run = configure(*name.split("/"), "paper", dataset=kind)
        found.setdefault(repr(replace(run, variant="")), (name, kind))
    return tuple(found.values())


def _mutual_prediction() -> list[Artefact]:
    paper, full = "mutual_prediction", "mutual_prediction/fgfl-cmimpl"
    fields = {
        field: (field, [full] + [f"{paper}/{v}" for v in mutual_prediction.VARIANTS if field in v])
        for field in ("alpha", "beta")
    }
    points = [(v, k) for k in ("sysu", "regdb") for _, names in fields.values() for v in names]
    searches = {"sysu": ("all", "indoor"), "regdb": ("visible-to-infrared", "infrared-to-visible")}
    labels = ("baseline", "+ FGFL", "+ FGFL\n+ CMIMPL")
    return [
        _table(paper, "T2", "RegDB beside other methods"),
        _table(paper, "T3", "SYSU-MM01 beside other methods"),
        _table(paper, "T4", "what each part brings", labels=labels, trial=1, above=True),
        Artefact(
            paper,
            "F3",
            "weights of the two terms",
            _distinct(points),
            partial(_swept, fields=fields, modes=searches, trial=1),
        ),
    ]


def _multi_granularity() -> list[Artefact]:
    paper = "multi_granularity"
    blocks = {"i1": "$I_1$, blocks of MGSA", "i2": "$I_2$, blocks of MSAM"}
    fields = {
        f: (blocks[f], [f"{paper}/{v}" for v in names])
        for f, names in multi_granularity.SWEEPS.items()
    }
    points = dict.fromkeys((v, "sysu") for _, variants in fields.values() for v in variants)
    labels = ("baseline", "+ MGSA", "+ MSAM", "+ MGSA\n+ MSAM")
    drawing = partial(_swept, fields=fields, modes={"sysu": ("all",)})
    return [
        _table(paper, "T1", "what each attention brings", labels=labels),
        Artefact(paper, "F3", "number of blocks", tuple(points), drawing),
    ]


def _mrda() -> list[Artefact]:
    paper, full = "mrda", "mrda/mrm-dam"
    stages = [full, *(f"mrda/stage-{stage}" for stage in (0, 2, 3, 4))]
    fields = {"region_stage": ("stage of the region-centre loss", stages)}
    pair = ((full, "sysu"), ("mrda/baseline", "sysu"))
    parts = ("baseline", "+ MRM", "+ DAM", "+ both")
    return [
        _table(paper, "T1", "four attentions", labels=("DAM", "BAM", "CBAM", "IWPAM")),
        _table(paper, "T2", "what each part brings", labels=parts),
        _table(paper, "T3", "SYSU-MM01, all-search, beside other methods"),
        _table(paper, "T4", "SYSU-MM01, indoor-search, beside other methods"),
        _table(paper, "T5", "RegDB beside other methods"),
        Artefact(
            paper,
            "F6",
            "where the mask constrains",
            tuple((v, "sysu") for v in stages),
            partial(_swept, fields=fields, modes={"sysu": ("all", "indoor")}),
        ),
        _look(paper, "F7", "features and their distances", pair, ("tsne", "distances")),
        _look(paper, "F8", "where the network looks", pair, ("gradcam",)),
        _look(paper, "F9", "ten best matches", pair, ("top10_beside",)),
    ]


def artefacts() -> dict[str, Artefact]:
    """The papers' tables and figures by name, "mrda-T1"."""
    every = [*_mutual_prediction(), *_multi_granularity(), *_mrda()]
    return {artefact.name: artefact for artefact in every}

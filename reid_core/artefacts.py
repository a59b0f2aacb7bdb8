"""The papers' tables and figures: of each the runs that regenerate it, and how it is drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from reid_core import figures, records
from reid_core.methods import configure, multi_granularity, mutual_prediction
from reid_core.notebooks import execute
from reid_core.paths import NOTEBOOKS, results_folder, write_atomically
from reid_core.tables import beside, measured, published, sweep


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

    def save(self, place: Place) -> list[Path]:
        """Writes what it draws, tables as CSV, figures as PNG and SVG, and returns the paths."""
        paths = []
        for name, thing in self.draw(place).items():
            path = thing
            if isinstance(thing, Figure):
                path = figures.save(thing, self.folder(place), name)
            elif isinstance(thing, pd.DataFrame):
                path = self.folder(place) / f"{name}.csv"
                write_atomically(path, thing.to_csv(lineterminator="\n"))
            paths.append(path)
        return paths


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
    place: Place, artefact: Artefact, labels: Sequence[str], trial: int | None = None
) -> Drawn:
    """The table, and rank-1 of its rows as bars, printed and measured side by side."""
    rows = published(artefact.paper).query("table == @artefact.number and metric == 'rank1'")
    runs = measured(place.profile, place.gallery, trial)
    panels = {}
    for (kind, mode), group in rows.groupby(["dataset", "mode"], sort=False):
        printed, name = group.set_index("variant")["value"], place.dataset(kind)
        found = runs.query("dataset == @name and mode == @mode").set_index("variant")
        found = found.reindex(printed.index)[["rank1", "rank1_std"]].astype(float).mul(100)
        panels[f"{name}, {mode}"] = printed, found["rank1"], found["rank1_std"]
    title = f"{artefact.paper}, {artefact.title}, profile {place.profile}"
    chart = figures.ablation_bars(panels, labels, title)
    return _compared(place, artefact, trial) | {artefact.number: chart}


def _swept(
    place: Place,
    artefact: Artefact,
    fields: Mapping[str, tuple[str, list[str]]],
    modes: Mapping[str, Sequence[str]],
    trial: int | None = None,
) -> Drawn:
    """A curve for each of ``fields`` ({setting: (its label, variants)}), a panel a dataset."""
    runs = measured(place.profile, place.gallery, trial)
    drawn: Drawn = {}
    for field, (label, variants) in fields.items():
        panels = {}
        for kind, searches in modes.items():
            if name := place.dataset(kind):
                chosen = runs[(runs["dataset"] == name) & runs["mode"].isin(searches)]
                panels[name] = sweep(chosen, variants, field)
        title = f"{artefact.paper}, {artefact.title}: {label}, profile {place.profile}"
        drawn[f"{artefact.number}_{field}"] = figures.sweep_curves(panels, field, label, title)
    return drawn


def _looked_at(place: Place, artefact: Artefact, files: Sequence[str]) -> Drawn:
    """What notebook 30 draws of the first of the artefact's runs beside the second."""
    (method, kind), (baseline, _) = artefact.runs
    run = configure(*method.split("/"), place.profile, dataset=place.dataset(kind), seed=place.seed)
    folder = records.figures_folder(run)
    parameters = {"profile": place.profile, "dataset": run.dataset, "data": place.data}
    parameters |= {"method": method, "baseline": baseline, "seed": place.seed}
    if not all((folder / f"{name}.png").is_file() for name in files):
        execute(NOTEBOOKS / "30_figures.ipynb", folder / "30_figures.ipynb", parameters)
    return {f"{artefact.number}_{name}": folder / f"{name}.png" for name in files}


def _of_table(paper: str, number: str) -> tuple[tuple[str, str], ...]:
    """The runs of the rows that this project trains."""
    rows = published(paper).query("table == @number and variant != ''")
    return tuple(dict.fromkeys(zip(rows["variant"], rows["dataset"], strict=True)))


def _table(
    paper: str, number: str, title: str, bars: Sequence[str] = (), trial: int | None = None
) -> Artefact:
    """``bars`` names the rows of an ablation, which is drawn too."""
    drawing = (
        partial(_ablated, labels=bars, trial=trial) if bars else partial(_compared, trial=trial)
    )
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
        _table(paper, "T4", "what each part brings", labels, trial=1),
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
        _table(paper, "T1", "what each attention brings", labels),
        Artefact(paper, "F3", "number of blocks", tuple(points), drawing),
    ]


def _mrda() -> list[Artefact]:
    paper, full = "mrda", "mrda/mrm-dam"
    stages = [full, *(f"mrda/stage-{stage}" for stage in (0, 2, 3, 4))]
    fields = {"region_stage": ("stage of the region-centre loss", stages)}
    pair = ((full, "sysu"), ("mrda/baseline", "sysu"))
    return [
        _table(paper, "T1", "four attentions", ("DAM", "BAM", "CBAM", "IWPAM")),
        _table(paper, "T2", "what each part brings", ("baseline", "+ MRM", "+ DAM", "+ both")),
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

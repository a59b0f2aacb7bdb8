"""The papers' 29 tables and figures: of each the runs that regenerate it, and how it is drawn."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal

import pandas as pd

from reid_core.claims import above_others, ladder, peaks
from reid_core.drawings import (
    Artefact,
    ablated,
    bars,
    cmc,
    compared,
    converged,
    looked_at,
    swept,
)
from reid_core.methods import configure, multi_granularity, mutual_prediction
from reid_core.tables import MODES, published


def _of_table(paper: str, number: str) -> tuple[tuple[str, str], ...]:
    """The runs of the rows that this project trains."""
    rows = published(paper).query("table == @number and variant != ''")
    return tuple(dict.fromkeys(zip(rows["variant"], rows["dataset"], strict=True)))


def _table(
    paper: str, number: str, title: str, claim: pd.DataFrame, trial: int | None = None, **of: Any
) -> Artefact:
    """A table whose rows ``labels`` names is drawn too (see `ablated`)."""
    drawing = partial(ablated if "labels" in of else compared, **of)
    return Artefact(paper, number, title, _of_table(paper, number), drawing, claim, trial)


def _ablation(
    paper: str,
    number: str,
    labels: Sequence[str],
    over: Literal["first", "above"] = "first",
    trial: int | None = None,
) -> Artefact:
    """What each row adds to the first one, or to the one above."""
    claim, title = ladder(paper, number, over), "what each part brings"
    return _table(paper, number, title, claim, trial, labels=labels, over=over)


def _choice(
    paper: str, number: str, title: str, method: str, printed_in: str | None = None, **of: Any
) -> Artefact:
    """A table that shows ``method`` above others. Its numbers may be ``printed_in`` another one."""
    claim = above_others(paper, number, f"{paper}/{method}", printed_in)
    return _table(paper, number, title, claim, **of)


def _look(
    paper: str, number: str, title: str, pair: tuple[tuple[str, str], ...], *pictures: str
) -> Artefact:
    """Pictures of the first of ``pair`` beside the second."""
    return Artefact(paper, number, title, pair, looked_at, pictures=pictures)


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
    variants = mutual_prediction.VARIANTS
    fields = {
        field: (
            field,
            [full] + [f"{paper}/{v}" for v, own in variants.items() if {*own} == {field}],
        )
        for field in ("alpha", "beta")
    }
    points = [(v, k) for k in ("sysu", "regdb") for _, names in fields.values() for v in names]
    labels = ("baseline", "+ FGFL", "+ FGFL\n+ CMIMPL")
    runs = _distinct(points)
    claim = peaks(runs, {full: list(dict(runs))}, MODES)
    return [
        _choice(paper, "T2", "RegDB beside other methods", "fgfl-cmimpl"),
        _choice(paper, "T3", "SYSU-MM01 beside other methods", "fgfl-cmimpl"),
        _ablation(paper, "T4", labels, over="above", trial=1),
        Artefact(
            paper,
            "F3",
            "weights of the two terms",
            runs,
            partial(swept, fields=fields, modes=MODES),
            claim,
            trial=1,
        ),
    ]


def _crossvit_csa() -> list[Artefact]:
    paper, full = "crossvit_csa", "ta-crossvit-csa-wt"
    pair = ((f"{paper}/{full}", "sysu"), (f"{paper}/baseline", "sysu"))
    cross = "Cross\nViT"
    parts = ("base", "TA", cross, "CSA", f"TA\n{cross}", f"TA\n{cross}\nCSA", "all\nfour")
    return [
        _choice(paper, "T1", "SYSU-MM01 beside other methods", full),
        _choice(paper, "T2", "RegDB beside other methods", full),
        _ablation(paper, "T3", parts),
        _choice(paper, "T4", "three losses", full, labels=("center", "batch-hard", "weighted")),
        _look(paper, "F3", "where the network looks", pair, "gradcam"),
        _look(paper, "F4", "ten best matches", pair, "top10_beside"),
    ]


def _fprnet() -> list[Artefact]:
    paper, rows = "fprnet", _of_table("fprnet", "T8")
    names = ("One-\nstream", "Two-\nstream", "Zero-\npad", "ResNet", "SVDnet", "FPRnet", "+ SRCNN")
    parts = ("no\ndomains", "no\nIR-RGB", "no\nfusion", "no\nupsampling")
    heads = ("single\nSVD", "double\nSVD", "LeakyReLU", "ReLU")
    apart = {"printed_in": "T8", "over": "none"}  # the row that theirs are to be compared with
    # Table 8 is what both figures draw
    first, ranks = (
        above_others(paper, "T8", "fprnet/fprnet", metrics=metrics)
        for metrics in (["rank1"], ["rank1", "rank10", "rank20"])
    )
    return [
        _choice(paper, "T3", "weights of the losses", paper),
        _choice(paper, "T4", "which features, and how they are joined", paper),
        _choice(paper, "T5", "what is left out", paper, **apart, labels=parts),
        _choice(paper, "T6", "the heads", paper, **apart, labels=heads),
        _choice(paper, "T8", "SYSU-MM01 beside other methods", paper),
        Artefact(paper, "F4", "accuracy", rows, partial(bars, table="T8", labels=names), first),
        Artefact(paper, "F5", "CMC curves", rows, cmc, ranks),
        Artefact(paper, "F6", "convergence", rows, converged, parameters={paper: {"curve": True}}),
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
    modes = {"sysu": ("all",)}
    drawing = partial(swept, fields=fields, modes=modes)
    best = {"i1": f"{paper}/mgsa", "i2": f"{paper}/msam"}
    claim = peaks(tuple(points), {best[f]: variants for f, (_, variants) in fields.items()}, modes)
    return [
        _ablation(paper, "T1", labels),
        Artefact(paper, "F3", "number of blocks", tuple(points), drawing, claim),
    ]


def _mrda() -> list[Artefact]:
    paper, full = "mrda", "mrda/mrm-dam"
    stages = [full, *(f"mrda/stage-{stage}" for stage in (0, 2, 3, 4))]
    fields = {"region_stage": ("stage of the region-centre loss", stages)}
    pair = ((full, "sysu"), ("mrda/baseline", "sysu"))
    parts = ("baseline", "+ MRM", "+ DAM", "+ both")
    attentions = ("DAM", "BAM", "CBAM", "IWPAM")
    runs = tuple((v, "sysu") for v in stages)
    return [
        _choice(paper, "T1", "four attentions", "mrm-dam", labels=attentions),
        _ablation(paper, "T2", parts),
        _choice(paper, "T3", "SYSU-MM01, all-search, beside other methods", "mrm-dam"),
        _choice(paper, "T4", "SYSU-MM01, indoor-search, beside other methods", "mrm-dam"),
        _choice(paper, "T5", "RegDB beside other methods", "mrm-dam"),
        Artefact(
            paper,
            "F6",
            "where the mask constrains",
            runs,
            partial(swept, fields=fields, modes={"sysu": MODES["sysu"]}),
            peaks(runs, {full: stages}, {"sysu": ("all",)}),  # the search of its printed point
        ),
        _look(paper, "F7", "features and their distances", pair, "tsne", "distances"),
        _look(paper, "F8", "where the network looks", pair, "gradcam"),
        _look(paper, "F9", "ten best matches", pair, "top10_beside"),
    ]


@cache
def artefacts() -> dict[str, Artefact]:
    """The papers' tables and figures by name, "mrda-T1"."""
    every = [*_mutual_prediction(), *_crossvit_csa(), *_fprnet(), *_multi_granularity(), *_mrda()]
    return {artefact.name: artefact for artefact in every}

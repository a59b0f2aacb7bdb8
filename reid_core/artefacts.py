"""The papers' 29 tables and figures: of each the runs that regenerate it, and how it is drawn."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

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
from reid_core.tables import published


def _of_table(paper: str, number: str) -> tuple[tuple[str, str], ...]:
    """The runs of the rows that this project trains."""
    rows = published(paper).query("table == @number and variant != ''")
    return tuple(dict.fromkeys(zip(rows["variant"], rows["dataset"], strict=True)))


def _table(paper: str, number: str, title: str, **of: Any) -> Artefact:
    """An ablation, whose rows ``labels`` names, is drawn too (see `ablated`)."""
    drawing = partial(ablated if "labels" in of else compared, **of)
    return Artefact(paper, number, title, _of_table(paper, number), drawing)


def _look(
    paper: str, number: str, title: str, pair: tuple[tuple[str, str], ...], files: Sequence[str]
) -> Artefact:
    """Pictures of the first of ``pair`` beside the second."""
    return Artefact(paper, number, title, pair, partial(looked_at, files=files))


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
        _table(paper, "T4", "what each part brings", labels=labels, trial=1, over="above"),
        Artefact(
            paper,
            "F3",
            "weights of the two terms",
            _distinct(points),
            partial(swept, fields=fields, modes=searches, trial=1),
        ),
    ]


def _crossvit_csa() -> list[Artefact]:
    paper = "crossvit_csa"
    pair = ((f"{paper}/ta-crossvit-csa-wt", "sysu"), (f"{paper}/baseline", "sysu"))
    cross = "Cross\nViT"
    parts = ("base", "TA", cross, "CSA", f"TA\n{cross}", f"TA\n{cross}\nCSA", "all\nfour")
    return [
        _table(paper, "T1", "SYSU-MM01 beside other methods"),
        _table(paper, "T2", "RegDB beside other methods"),
        _table(paper, "T3", "what each part brings", labels=parts),
        _table(paper, "T4", "three losses", labels=("center", "batch-hard", "weighted")),
        _look(paper, "F3", "where the network looks", pair, ("gradcam",)),
        _look(paper, "F4", "ten best matches", pair, ("top10_beside",)),
    ]


def _fprnet() -> list[Artefact]:
    paper, rows = "fprnet", _of_table("fprnet", "T8")
    names = ("One-\nstream", "Two-\nstream", "Zero-\npad", "ResNet", "SVDnet", "FPRnet", "+ SRCNN")
    parts = ("no\ndomains", "no\nIR-RGB", "no\nfusion", "no\nupsampling")
    heads = ("single\nSVD", "double\nSVD", "LeakyReLU", "ReLU")
    return [
        _table(paper, "T3", "weights of the losses"),
        _table(paper, "T4", "which features, and how they are joined"),
        _table(paper, "T5", "what is left out", labels=parts, over="none"),
        _table(paper, "T6", "the heads", labels=heads, over="none"),
        _table(paper, "T8", "SYSU-MM01 beside other methods"),
        Artefact(paper, "F4", "accuracy", rows, partial(bars, table="T8", labels=names)),
        Artefact(paper, "F5", "CMC curves", rows, cmc),
        Artefact(paper, "F6", "convergence", rows, converged, {paper: {"curve": True}}),
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
    drawing = partial(swept, fields=fields, modes={"sysu": ("all",)})
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
            partial(swept, fields=fields, modes={"sysu": ("all", "indoor")}),
        ),
        _look(paper, "F7", "features and their distances", pair, ("tsne", "distances")),
        _look(paper, "F8", "where the network looks", pair, ("gradcam",)),
        _look(paper, "F9", "ten best matches", pair, ("top10_beside",)),
    ]


@cache
def artefacts() -> dict[str, Artefact]:
    """The papers' tables and figures by name, "mrda-T1"."""
    every = [*_mutual_prediction(), *_crossvit_csa(), *_fprnet(), *_multi_granularity(), *_mrda()]
    return {artefact.name: artefact for artefact in every}

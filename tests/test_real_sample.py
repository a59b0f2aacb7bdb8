"""From real SYSU-MM01 crops to ranked lists: reader, packer, features, evaluation, figure."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reid_core import figures, ranked, records
from reid_core.config import RunConfig
from reid_core.data.datasets import obtain, read
from reid_core.data.images import decode, pack
from reid_core.methods import build, configure
from reid_core.paths import ROOT
from reid_core.retrieval import evaluate, top_matches
from reid_core.retrieval.candidates import LABELS
from reid_core.retrieval.features import extract
from reid_core.retrieval.lists import Lists
from reid_core.train import fit


@pytest.fixture
def real_sysu(real_data: Path, tmp_path: Path) -> Path:
    """The sixty crops with the id lists that a dataset of five test people has."""
    root = tmp_path / "sysu"
    shutil.copytree(real_data / "sysu_mm01_sample", root)
    (root / "exp").mkdir()
    for split, ids in {"train": "", "val": "", "test": "1,2,3,4,5"}.items():
        (root / "exp" / f"{split}_id.txt").write_text(ids + "\n")
    return root


def trained_baseline() -> tuple[RunConfig, torch.nn.Module]:
    """The demo-trained two-stream baseline where `make demo` has left one, else a smoke-trained
    one: the way from pictures to lists is the same."""
    run = configure("baselines", "two-stream", "demo")
    checkpoint = ROOT / "results" / "runs" / run.folder_name() / "checkpoint.pt"
    finished = checkpoint.parent / "metrics.json"
    if not finished.exists() or records.read_json(finished)["config"] != run.to_dict():
        run = configure("baselines", "two-stream", "smoke", dataset="paperdolls-tiny", seed=60)
        obtain(run.dataset)
        trained = fit(run)
        return run, trained.model
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    model = build(run, len(state["head.classifier.weight"]))
    model.load_state_dict(state)
    return run, model


def test_real_infrared_queries_find_real_visible_pictures(real_sysu: Path, tmp_path: Path) -> None:
    index = read("sysu", real_sysu)
    assert len(index) == 60
    run, model = trained_baseline()
    pixels = pack(index, real_sysu, run.height, run.width)
    features = extract(model, pixels, index.index.to_numpy(), index["modality"].to_numpy())
    assert features.shape[0] == 60
    assert np.isfinite(features).all()
    labels = [index[name].to_numpy() for name in LABELS]

    result = evaluate(features, *labels, protocol="sysu", mode="all")
    assert result.trials["queries"].eq(20).all()
    assert result.trials["gallery_size"].eq(20).all()  # five people, four visible cameras
    # a few crops prove no accuracy, but five people always lie within the first five
    assert result.mean["rank5"] == 1.0

    queries = np.flatnonzero(labels[3] == "infrared")[::4]
    matches = top_matches(features, *labels, protocol="sysu", mode="all", queries=queries)
    from_room = np.isin(labels[1][queries], 3)
    assert not np.isin(labels[1][matches[from_room]], 2).any(), "camera 3 must not see camera 2"
    rows = np.unique(np.append(queries, matches[matches >= 0]))
    pictures = {int(r): decode(real_sysu / index["path"][r], 192, 80) for r in rows}
    lists = Lists("all", pictures, queries, matches, labels[0], labels[1])
    sheet = ranked.top_lists(lists, "real SYSU-MM01")
    assert figures.save(sheet, tmp_path, "top10", vector=False).stat().st_size > 50_000

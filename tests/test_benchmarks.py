"""What is timed is right, and what tells where time goes adds up; no test looks at a clock."""

import numpy as np
import pytest
import torch
from test_protocols import alike, arrays, paired_images, sysu_images
from test_rerank import crowd

from reid_core.benchmarks import data, retrieval, steps, timing
from reid_core.data.images import PackedImages
from reid_core.methods import configure
from reid_core.retrieval import evaluate
from reid_core.retrieval.candidates import prepare
from reid_core.retrieval.metrics import METRICS
from reid_core.retrieval.rerank import rerank


@pytest.mark.parametrize("protocol", ["sysu", "regdb", "llcm"])
def test_naive_evaluation_agrees(protocol):
    mode = "all" if protocol == "sysu" else "visible-to-infrared"
    images = sysu_images(range(1, 13), lambda identity, camera: (identity + camera) % 3)
    if protocol != "sysu":
        cameras = {"visible": (1, 2), "infrared": (1, 2)}
        images = paired_images(range(1, 9), cameras, lambda identity, camera: 2)
    given = arrays(images, alike(images, noise=3.0))
    request = {"protocol": protocol, "mode": mode, "trials": 2}
    extra = {"shots": 1, "gallery": "agw", "permutations": None}
    slow = retrieval.naive_evaluate(prepare(**given, **request, **extra))
    found = evaluate(**given, **request).trials[list(METRICS)]
    np.testing.assert_allclose(found, slow, rtol=0, atol=1e-12)


def test_naive_reranking_agrees():
    pair = crowd(30, 40)
    np.testing.assert_allclose(rerank(*pair), retrieval.naive_rerank(*pair), rtol=0, atol=1e-9)


def test_works_take_turns_and_the_first_round_does_not_count():
    calls = []
    found = timing.seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3 and list(found.index) == ["a", "b"]


def test_parts_of_a_step(tmp_path):
    run = configure("mutual_prediction", "fgfl-cmimpl", "smoke", {"lr": 0.0})
    index = data.empty_set(tmp_path / "empty.npy", 120, 8, run.height, run.width)
    pixels = PackedImages(tmp_path / "empty.npy")
    assert pixels.shape == (120, run.height, run.width, 3)
    cpu = torch.device("cpu")
    step = steps.Step(run, steps.batches_for(run, index, pixels, cpu), 8, cpu)
    shares = steps.parts(step, 2)
    assert tuple(shares.index) == steps.PARTS
    assert shares.sum() == pytest.approx(1) and (shares > 0).all()
    assert steps.computing_seconds(step) > 0
    hooks = [h for m in step.model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert not hooks, "profiling must leave nothing behind"

"""A training's health: spread of features, terms beside their trivial values, and what is said."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from reid_core import health
from reid_core.methods import build, configure
from reid_core.retrieval.features import measure
from reid_core.train import fit


@pytest.fixture(autouse=True)
def own_results(monkeypatch, tmp_path):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))


class Fixed(nn.Module):
    """Embeds an image as its first row's red numbers."""

    def embed(self, images, modality):
        return images[:, 0, 0]


def test_spread_equals_a_loop_over_pairs(batch):
    features = torch.cat([batch.visible, batch.infrared])[:, 0, 0].double().numpy()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    n = len(unit)
    pairs = [1 - unit[i] @ unit[j] for i in range(n) for j in range(n) if i != j]
    assert health.spread(Fixed(), batch, "fp32") == pytest.approx(np.mean(pairs), rel=1e-5)


def test_spread_of_one_feature_for_all_images_is_zero(batch):
    class Collapsed(Fixed):
        def embed(self, images, modality):
            return torch.full((len(images), 7), 0.3)

    assert health.spread(Collapsed(), batch, "fp32") == pytest.approx(0, abs=1e-6)


def test_report_names_dead_terms_and_collapse():
    last = {"epoch": 2, "lr": 0.1, "identity": 1.5, "triplet": 0.3, "total": 1.8}
    last |= {"spread": 0.5, "visits": 4.0, "seconds": 1.0, "mutual": math.nan}
    history = pd.DataFrame([last | {"identity": 9.0, "mutual": 3.0}, last])
    trivial = {"identity": math.log(900), "triplet": 0.3, "mutual": 5.0}
    found = health.report(history, trivial)
    assert found["visits"] == 4 and found["spread"] == 0.5
    expected = {"identity": [1.5, math.log(900)], "triplet": [0.3, 0.3]}
    assert found["terms"] == expected | {"mutual": [3.0, 5.0]}, "of the last epoch that had it"
    assert found["ill"] == ["triplet 0.3 is not below its trivial value 0.3"]
    alike = pd.DataFrame([last | {"spread": 0.001, "triplet": 0.1}])
    assert health.report(alike, trivial)["ill"] == ["collapsed: spread of features 0.001"]
    well = pd.DataFrame([last | {"triplet": 0.1}])
    assert health.report(well, trivial)["ill"] == []


def test_a_dead_run_says_so_in_its_log_and_record(tiny_dolls, capsys):
    """No learning rate, so nothing is learned; and the same network with one is not blamed for
    the spread of its features."""
    run = configure("baselines", "two-stream", "smoke", {"lr": 0.0, "epochs": 1})
    trained = fit(run, tiny_dolls)
    assert "health: identity 2.08 is not below its trivial value 2.08" in capsys.readouterr().out
    content = measure(trained)["health"]
    assert any(sentence.startswith("identity") for sentence in content["ill"])
    assert content["terms"]["identity"][1] == pytest.approx(math.log(8))
    # 3 steps of 4 of 8 people
    assert content["visits"] == 1.5 == trained.history["visits"].iloc[-1]


def test_visits_count_all_epochs(tiny_dolls):
    run = configure("baselines", "two-stream", "smoke", {"epochs": 2}, seed=3)
    assert fit(run, tiny_dolls).history["visits"].tolist() == [1.5, 3.0]


def test_trivial_values_are_those_of_features_that_carry_nothing(batch):
    """A classifier without weights, behind features that are all one point."""
    run = configure("baselines", "pcb", "smoke")
    torch.manual_seed(0)
    model = build(run, 4)
    for classifier in model.head.classifiers:
        nn.init.zeros_(classifier.weight)
    alike = torch.ones(len(batch.identity) * 2, 3, 48, 24).chunk(2)
    still = type(batch)(*alike, batch.identity)
    found = model.eval().losses(still, 0)
    assert found.keys() == model.trivial.keys()
    for name, value in model.trivial.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5), name

"""Checkpoints of AGW's released code: its outputs, its names, and what is refused."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reid_core import records
from reid_core.__main__ import main
from reid_core.config import ConfigError
from reid_core.data.batches import Batch
from reid_core.data.datasets import obtain
from reid_core.methods import build, configure
from reid_core.paths import ROOT
from reid_core.released import import_agw, read_released, renamed
from reid_core.train import fit, make_optimizer, train_step


def theirs(name: str) -> str:
    """One of our names in the reference code's: written by hand, the other way round."""
    name = name.replace("backbone.private.visible.0.0.", "visible_module.visible.conv1.")
    name = name.replace("backbone.private.visible.0.1.", "visible_module.visible.bn1.")
    name = name.replace("backbone.private.infrared.0.0.", "thermal_module.thermal.conv1.")
    name = name.replace("backbone.private.infrared.0.1.", "thermal_module.thermal.bn1.")
    name = name.replace("head.neck.", "bottleneck.").replace("head.classifier", "classifier")
    if match := re.fullmatch(r"backbone\.shared\.([12])\.(\d)\.1\.(.*)", name):
        stage, block, rest = int(match[1]) + 1, int(match[2]), match[3]
        if rest.split(".")[0] in ("theta", "phi", "g", "W", "norm"):
            rest = rest.replace("g.", "g.0.").replace("W.", "W.0.").replace("norm.", "W.1.")
            return f"NL_{stage}.{block - {2: 2, 3: 3}[stage]}.{rest}"
    if match := re.fullmatch(r"backbone\.shared\.(\d)\.(\d)\.(.*)", name):
        rest = re.sub(r"^0\.(conv|bn|downsample)", r"\1", match[3])
        return f"base_resnet.base.layer{int(match[1]) + 1}.{match[2]}.{rest}"
    return name


def checkpoint_of(model: nn.Module, **more) -> dict:
    """As the reference code saves one, with parts that it does not use, and numpy's numbers."""
    net = {theirs(name): value for name, value in model.state_dict().items()}
    unused = torch.zeros(64, 64, 1, 1)
    net |= dict.fromkeys(("thermal_module.thermal.layer1.0.conv1.weight",), unused)
    net |= {"base_resnet.base.conv1.weight": torch.zeros(64, 3, 7, 7)}
    return {"net": net, "mAP": np.float64(0.4), "cmc": np.array([0.3, 0.5]), "epoch": 7} | more


def paper(variant: str, identities: int) -> nn.Module:
    torch.manual_seed(0)
    return build(configure("baselines", variant, "imported", dataset="sysu"), identities)


@pytest.mark.parametrize("variant", ["agw-released", "two-stream"])
def test_names_there_and_back(variant):
    state = paper(variant, 5).state_dict()
    found = renamed(checkpoint_of(paper(variant, 5))["net"])
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.fixture(scope="module")
def reference() -> tuple[dict, object]:
    folder = ROOT.parent / "shared" / "reference"
    if not (folder / "agw.json").is_file():
        pytest.skip(f"no outputs of the reference code in {folder}")
    spec = importlib.util.spec_from_file_location("state", folder / "state.py")
    formula = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formula)
    return json.loads((folder / "agw.json").read_text(encoding="utf-8")), formula


@pytest.mark.parametrize("variant, key", [("agw-released", "agw"), ("two-stream", "base")])
def test_features_losses_and_one_step_are_those_of_the_released_code(variant, key, reference):
    """In float64, for weights and inputs made by a formula."""
    facts, formula = reference
    shapes, expected = facts["agw"]["shapes"], facts[key]
    names = [n for n in shapes if key == "agw" or not n.startswith("NL_")]
    state = {n: torch.from_numpy(formula.tensor(n, tuple(shapes[n]))) for n in names}
    for name in [n for n in names if n.endswith("running_var")]:
        count = name.replace("running_var", "num_batches_tracked")
        state.setdefault(count, torch.zeros((), dtype=torch.int64))
    state["bottleneck.bias"].zero_()  # it never learns, and stays where that code starts it
    changes = {"lr": 0.1, "backbone_lr": 0.1, "precision": "fp32"}
    run = configure("baselines", variant, "imported", changes, dataset="sysu")
    model = build(run, facts["classes"]).double()
    model.load_state_dict(renamed(state))
    visible, infrared = (torch.from_numpy(formula.images(m)) for m in ("visible", "infrared"))
    model.eval()
    with torch.no_grad():
        for modality, images in (("visible", visible), ("infrared", infrared)):
            found = nn.functional.normalize(model.embed(images, modality))
            wanted = torch.tensor(expected[f"eval_{modality}"], dtype=torch.float64)
            torch.testing.assert_close(found[:, : wanted.shape[1]], wanted, rtol=0, atol=1e-5)
    model.train()
    optimizer = make_optimizer(run, model)  # at its rates: 0.1 for the head, 0.01 for the rest
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["factor"]
    batch = Batch(visible, infrared, torch.tensor(facts["input"]["identity"]))
    terms = train_step(run, model, optimizer, batch, 0)
    assert terms["identity"].item() == pytest.approx(expected["identity_loss"], abs=1e-5)
    assert terms["triplet"].item() == pytest.approx(expected["triplet_loss"], abs=1e-5)
    after = {theirs(name): value for name, value in model.state_dict().items()}
    for name, values in expected["after_one_step"].items():
        found = after[name].flatten()[: len(values)]
        wanted = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5, msg=name)


def test_a_checkpoint_becomes_a_run_that_is_measured_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    people = 12  # of paperdolls-tiny, training and validation
    torch.save(checkpoint_of(paper("agw-released", people)), tmp_path / "agw.t")
    obtain("paperdolls-tiny")
    small = {"weights": "none", "epochs": 1, "warmup": 0, "height": 48, "width": 24}
    monkeypatch.setattr("reid_core.methods.read_profile", lambda name: {"overrides": small})
    assert main(["import", "agw", str(tmp_path / "agw.t"), "--dataset", "paperdolls-tiny"]) == 0
    assert "all, gallery agw, 1-shot: rank1" in capsys.readouterr().out
    run = configure("baselines", "agw-released", "imported", dataset="paperdolls-tiny")
    content = records.finished(run)
    assert content["imported"]["file"] == "agw.t" and len(content["imported"]["sha256"]) == 64
    assert content["health"] == {"terms": {}, "ill": []}
    torch.save(checkpoint_of(paper("agw-released", people), epoch=8), tmp_path / "other.t")
    with pytest.raises(records.RunError, match=r"results of another file, agw\.t"):
        import_agw(tmp_path / "other.t", "paperdolls-tiny")
    assert records.finished(import_agw(tmp_path / "agw.t", "paperdolls-tiny")) == content
    trained = fit(run)
    expected = paper("agw-released", people).state_dict()
    found = trained.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


class Planted:
    def __reduce__(self):
        return Path.touch, (Path("planted"),)


def test_what_is_no_such_checkpoint_is_refused_and_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file.t"
    with pytest.raises(ConfigError, match="no such file"):
        read_released(file)
    for content, said in (
        (checkpoint_of(paper("two-stream", 5), best=Planted()), "running code that is in it"),
        ({"model": {}}, r"found \['model'\], expected the state dict of AGW's code"),
        ([1, 2], "expected the state dict"),
    ):
        torch.save(content, file)
        with pytest.raises(ConfigError, match=said):
            read_released(file)
    assert not Path("planted").exists()
    file.write_bytes(b"half")
    with pytest.raises(ConfigError, match="damaged"):
        read_released(file)
    with pytest.raises(ConfigError, match="which AGW's code does not have"):
        renamed({"backbone.conv1": torch.zeros(1)})


def test_a_checkpoint_of_other_people_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    torch.save(checkpoint_of(paper("two-stream", 395)), tmp_path / "base.t")
    obtain("paperdolls-tiny")
    with pytest.raises(ConfigError, match="395 people apart, but paperdolls-tiny has 12"):
        import_agw(tmp_path / "base.t", "paperdolls-tiny")

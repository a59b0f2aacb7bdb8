"""The two-stream backbone and the pooling."""

import os
import pickle
import urllib.error

import pytest
import torch
from torch import nn
from torchvision import models

from reid_core.layers.pooling import GAP, GeM
from reid_core.layers.two_stream import MODALITIES, TwoStreamResNet, resnet_stages


def run(stages, images: torch.Tensor) -> list[torch.Tensor]:
    maps = []
    for stage in stages:
        images = stage(images)
        maps.append(images)
    return maps


def test_stages_of_a_person_image():
    """288 × 144 ends at 18 × 9 with last stride 1, as the papers have it, else at 9 × 5."""
    images = torch.zeros(1, 3, 288, 144)
    expected = [(64, 72, 36), (64, 72, 36), (128, 36, 18), (256, 18, 9)]
    for stride, last in ((1, (512, 18, 9)), (2, (512, 9, 5))):
        with torch.no_grad():
            shapes = [
                tuple(m.shape[1:]) for m in run(resnet_stages("resnet18", "none", stride), images)
            ]
        assert shapes == [*expected, last]


@pytest.mark.parametrize(
    "name, channels, blocks",
    [
        ("resnet10_half", 256, (1, 1, 1, 1)),
        ("resnet34", 512, (3, 4, 6, 3)),
        ("resnet50", 2048, (3, 4, 6, 3)),
    ],
)
def test_structure(name, channels, blocks):
    network = TwoStreamResNet(name)
    assert network.channels == channels
    assert tuple(len(stage) for stage in network.shared) == blocks
    with torch.no_grad():
        maps = network.eval()({"visible": torch.zeros(1, 3, 48, 24)})
    assert maps.shape == (1, channels, 3, 2)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_equals_torchvision_with_weights_of_a_file(name, tmp_path):
    torch.manual_seed(0)
    original = getattr(models, name)()
    for module in original.modules():  # statistics that differ from the ones of a new network
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    network = TwoStreamResNet(name, str(tmp_path / "weights.pth"), share_from=2, last_stride=2)
    original.eval(), network.eval()
    images = {m: torch.randn(2, 3, 64, 32) for m in MODALITIES}
    with torch.no_grad():
        expected = torch.cat(list(images.values()))
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            expected = getattr(original, part)(expected)
        torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("share_from", range(6))
def test_private_stages_are_private(share_from):
    torch.manual_seed(0)
    network = TwoStreamResNet("resnet10_half", share_from=share_from)
    assert len(network.shared) == 5 - share_from
    network({"visible": torch.randn(2, 3, 32, 32)}).square().mean().backward()
    for name, parameter in network.named_parameters():
        learns = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert learns == (not name.startswith("private.infrared")), name
    private = [p.shape for p in network.private["visible"].parameters()]
    assert [p.shape for p in network.private["infrared"].parameters()] == private
    assert bool(private) == (share_from > 0)


def test_both_private_stages_begin_alike():
    network = TwoStreamResNet("resnet10_half", share_from=2)
    pair = [list(network.private[m].parameters()) for m in MODALITIES]
    assert all(torch.equal(a, b) and a is not b for a, b in zip(*pair, strict=True))


def test_each_image_passes_its_own_branch_in_the_order_given():
    torch.manual_seed(0)
    network = TwoStreamResNet("resnet10_half").eval()
    with torch.no_grad():
        for parameter in network.private["infrared"].parameters():
            parameter.mul_(-0.5)
        images = {m: torch.randn(2, 3, 32, 16) for m in MODALITIES}
        both = network(images)
        alone = {m: network({m: x}) for m, x in images.items()}
        turned = network({m: images[m] for m in reversed(MODALITIES)})
        swapped = network({"visible": images["infrared"]})
    assert not torch.allclose(swapped, alone["infrared"])
    torch.testing.assert_close(both, torch.cat([alone["visible"], alone["infrared"]]))
    torch.testing.assert_close(turned, torch.cat([alone["infrared"], alone["visible"]]))


def test_shared_stages_normalise_both_modalities_together():
    """In training, the maps of one modality depend on the other through the shared statistics."""
    torch.manual_seed(0)
    network = TwoStreamResNet("resnet10_half")
    visible, infrared = torch.randn(2, 2, 3, 32, 16)
    with torch.no_grad():
        first = network({"visible": visible, "infrared": infrared})[:2]
        second = network({"visible": visible, "infrared": 5 * infrared})[:2]
    assert not torch.allclose(first, second)


class Times(nn.Module):
    """Stands for an attention, and keeps what it saw."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        self.seen = maps
        return self.factor * maps


@pytest.mark.parametrize("share_from", range(6))
def test_stage_by_stage_is_the_network(share_from):
    """In training, where a shared stage's statistics must be those of both modalities."""
    torch.manual_seed(0)
    network = TwoStreamResNet("resnet10_half", share_from=share_from)
    images = {"infrared": torch.randn(2, 3, 64, 32), "visible": 1 + torch.randn(4, 3, 64, 32)}
    maps = images
    with torch.no_grad():
        for number in range(5):
            maps = network.stage(number, maps)
        assert {m: len(x) for m, x in maps.items()} == {"infrared": 2, "visible": 4}
        torch.testing.assert_close(torch.cat(list(maps.values())), network(images))


@pytest.mark.parametrize("share_from", [0, 1, 2, 3])
@pytest.mark.parametrize("place", [2, 3, 4])
def test_attention_of_each_modality_between_shared_stages(place, share_from):
    channels = []

    def attention(modality, width):
        channels.append((modality, width))
        return Times({"visible": 2.0, "infrared": 3.0}[modality])

    torch.manual_seed(0)
    plain = TwoStreamResNet("resnet10_half", share_from=share_from).eval()
    torch.manual_seed(0)
    network = TwoStreamResNet(
        "resnet10_half", share_from=share_from, attention=attention, attend_after=place
    ).eval()
    assert channels == [(m, {2: 64, 3: 128, 4: 256}[place]) for m in MODALITIES]
    images = {m: torch.randn(n, 3, 32, 16) for m, n in zip(MODALITIES, (2, 3), strict=True)}
    with torch.no_grad():
        both = network(images)
        alone = {m: network({m: x}) for m, x in images.items()}
        for modality, factor in (("infrared", 3), ("visible", 2)):
            stages = [*plain.private[modality], *plain.shared]
            maps = run(stages[: place + 1], images[modality])[-1]
            torch.testing.assert_close(network.attention[modality].seen, maps)
            expected = run([nn.Identity(), *stages[place + 1 :]], factor * maps)[-1]
            torch.testing.assert_close(alone[modality], expected)
    torch.testing.assert_close(both, torch.cat(list(alone.values())))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("resnet19",), "backbone: found 'resnet19', expected one of resnet10_half, resnet18"),
        (("resnet10_half", "imagenet"), "weights: found 'imagenet', but resnet10_half has none"),
        (("resnet18", "/absent.pth"), "weights: found no file '/absent.pth', expected 'imagenet'"),
        (("resnet18", "none", 6), r"share_from: found 6, expected a stage 0\.\.5"),
        (("resnet18", "none", 1, 3), "last_stride: found 3, expected 1 or 2"),
        (("resnet18", "none", 1, 1, 0), r"attend_after: found 0, expected a stage 1\.\.4"),
        (("resnet18", "none", 3, 1, 1), r"attend_after: found 1, expected a stage 2\.\.4"),
    ],
)
def test_wrong_requests(arguments, message):
    with pytest.raises(ValueError, match=message):
        TwoStreamResNet(*arguments[:4], attend_after=(arguments[4:] or (4,))[0])


def test_imagenet_weights_without_network(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(ValueError, match=r"cannot be downloaded.*fetch https://.*resnet18.*'none'"):
        TwoStreamResNet("resnet18", "imagenet")


class Planted:
    """A pickle that would make a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("content", ["empty", "random", "truncated", "planted", "list", "other"])
def test_wrong_weights_files(content, tmp_path):
    file, planted = tmp_path / "weights.pth", tmp_path / "planted"
    torch.save(models.resnet18().state_dict(), file)
    whole = file.read_bytes()
    if content == "list":
        torch.save([1, 2], file)
    elif content == "other":
        torch.save(models.resnet34().state_dict(), file)
    else:
        changed = {
            "empty": b"",
            "random": torch.randint(256, (5000,), dtype=torch.uint8).numpy().tobytes(),
            "truncated": whole[: len(whole) // 2],
            "planted": pickle.dumps(Planted(planted), protocol=2),
        }
        file.write_bytes(changed[content])
    expected = "does not fit resnet18" if content in ("list", "other") else "is not a state dict"
    with pytest.raises(ValueError, match=rf"weights: '.*weights\.pth' {expected}") as error:
        TwoStreamResNet("resnet18", str(file))
    assert not planted.exists() and len(str(error.value)) < 500


def test_gem_by_hand():
    """(mean of 1³, 2³, 3³, 4³)^(1/3) = 25^(1/3)."""
    maps = torch.arange(1.0, 5).view(1, 1, 2, 2)
    assert GeM()(maps).item() == pytest.approx(25 ** (1 / 3), rel=1e-6)
    assert GeM(p=1)(maps).item() == pytest.approx(GAP()(maps).item()) == 2.5
    assert GeM(p=200)(maps / 4).item() == pytest.approx(1, abs=0.01)


def test_gem_has_the_gradient_of_its_definition_and_stands_zeros():
    torch.manual_seed(0)
    maps = torch.rand(2, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(GeM(), maps)
    dead = torch.zeros(1, 2, 4, 2, requires_grad=True)
    GeM()(dead).sum().backward()
    assert torch.isfinite(dead.grad).all()


@pytest.mark.parametrize("p", [3.0, 10.0, 100.0])
def test_gem_stands_high_exponents_of_small_and_large_numbers(p):
    """In float32 as in float64: 0.00003^10 alone would be 0, and its root have no gradient."""
    maps = torch.zeros(1, 2, 3, 4)
    maps[0, 0, 1, 2], maps[0, 1] = 3e-5, 1000 * torch.rand(3, 4)
    found, exact = (x.requires_grad_() for x in (maps.clone(), maps.double()))
    for x in (found, exact):
        GeM(p)(x).sum().backward()
    torch.testing.assert_close(GeM(p)(found).double(), GeM(p)(exact), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.grad.double(), exact.grad, rtol=1e-4, atol=1e-7)


def test_the_exponent_of_gem_cannot_die():
    """A learned one fell below 1 in the warm-up of a training, and stayed there: an average."""
    assert not list(GeM().parameters()) and GeM().p == 3


@pytest.mark.parametrize("pool", [GAP(), GeM()])
def test_pooling_is_float32_under_autocast(pool):
    maps = torch.rand(2, 3, 4, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = pool(maps)
    assert found.dtype == torch.float32 and found.shape == (2, 3)
    torch.testing.assert_close(found, pool(maps.float()))
    exact = torch.rand(2, 3, 4, 2, dtype=torch.float64)
    assert pool(exact).dtype == torch.float64  # to be compared with a reference

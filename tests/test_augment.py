"""Augmentation: every decision per image, and the same from the same generator."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from reid_core.data.augment import Augment, _TrivialAugment, denormalise, normalise

HEIGHT, WIDTH = 20, 12


def noise(n: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    shape = (n, height, width, 3)
    return torch.randint(256, shape, generator=random(99), dtype=torch.uint8)


def repeated(n: int) -> torch.Tensor:
    return noise(1).expand(n, -1, -1, -1).contiguous()


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(**changes) -> Augment:
    """Nothing but ``changes``."""
    return Augment(**{"pad": 0, "flip": 0.0} | changes)


EVERYTHING = Augment(pad=3, flip=0.5, erase=0.5, grayscale=0.5, trivial=True)


def test_normalise_agrees_with_torchvision():
    images = noise(4)
    reference = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    torch.testing.assert_close(normalise(images), reference(images.permute(0, 3, 1, 2)))
    assert plain()(images, "visible", random()).equal(normalise(images))


@pytest.mark.parametrize("augment", [plain(), Augment(), EVERYTHING])
@pytest.mark.parametrize("modality", ["visible", "infrared"])
@pytest.mark.parametrize("n", [1, 5])
def test_shape_kind_and_memory_format(augment, modality, n):
    images = noise(n)
    before = images.clone()
    out = augment(images, modality, random())
    assert (out.shape, out.dtype) == ((n, 3, HEIGHT, WIDTH), torch.float32)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert images.equal(before)


@pytest.mark.parametrize("mirrored", [False, True])
def test_crop_is_a_slice_of_the_padded_image(mirrored):
    images = noise(200)
    out = plain(pad=2, flip=float(mirrored))(images, "visible", random())
    padded = np.pad(images.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)))
    offsets = set()
    for picture, result in zip(padded, out, strict=True):
        slices = {
            (y, x): torch.tensor(picture[y : y + HEIGHT, x : x + WIDTH].copy())
            for y in range(5)
            for x in range(5)
        }
        turned = {at: s.flip(1) if mirrored else s for at, s in slices.items()}
        offsets.update(at for at, s in turned.items() if normalise(s[None])[0].equal(result))
    assert len(offsets) == 25  # every image is one of the slices, and every slice occurs


def test_every_result_of_a_crop_is_one_of_the_slices():
    image = torch.full((300, HEIGHT, WIDTH, 3), 255, dtype=torch.uint8)
    kept = plain(pad=2)(image, "visible", random())[:, 0] > 0
    assert (kept.any(2).sum(1) >= HEIGHT - 2).all() and (kept.any(1).sum(1) >= WIDTH - 2).all()
    assert set(kept.any(2).sum(1).tolist()) == {HEIGHT - 2, HEIGHT - 1, HEIGHT}
    assert not kept.all(), "padding is black"


def test_flip_is_decided_per_image():
    images = noise(400)
    out = plain(flip=0.3)(images, "infrared", random())
    same = (out == normalise(images)).all(dim=(1, 2, 3))
    turned = (out == normalise(images.flip(2))).all(dim=(1, 2, 3))
    assert (same ^ turned).all()
    assert 80 < turned.sum() < 160


def test_grayscale_is_decided_per_image_and_for_visible_ones_only():
    images = noise(400)
    augment = plain(grayscale=0.3)
    assert augment(images, "infrared", random()).equal(normalise(images))
    out = augment(images, "visible", random())
    luma = np.stack([np.asarray(Image.fromarray(i.numpy()).convert("L")) for i in images])
    gray = normalise(torch.tensor(luma)[..., None].expand(-1, -1, -1, 3))
    same = (out == normalise(images)).all(dim=(1, 2, 3))
    near = ((out - gray).abs() < 1.01 / 255 / 0.224).all(dim=(1, 2, 3))  # one level of rounding
    assert (same ^ near).all()
    assert 80 < near.sum() < 160


def test_erasing_blanks_one_rectangle_to_the_mean():
    images = noise(600, 64, 32)
    out, kept = plain(erase=0.4)(images, "visible", random()), normalise(images)
    hole = (out == 0).all(dim=1)
    assert out.equal(torch.where(hole[:, None], 0.0, kept))  # no pixel of the noise is the mean
    erased = hole.any(dim=(1, 2))
    assert 190 < erased.sum() < 290
    rows, columns = hole.any(2).sum(1)[erased], hole.any(1).sum(1)[erased]
    area = hole.sum(dim=(1, 2))[erased]
    assert (area == rows * columns).all()
    for inside, length in ((hole.any(2)[erased], rows), (hole.any(1)[erased], columns)):
        last = inside.shape[1] - 1 - inside.flip(1).int().argmax(1)
        assert (last - inside.int().argmax(1) + 1 == length).all()  # without gaps
    share = area / (64 * 32)
    assert 0.01 < share.min() < 0.05 and 0.33 < share.max() < 0.43
    aspect = (rows / columns)[share > 0.1]  # where rounding to whole pixels matters little
    assert 0.25 < aspect.min() < 0.5 and 2.9 < aspect.max() < 3.5
    places = {tuple(h.flatten().nonzero()[0].tolist()) for h in hole[erased]}
    assert len(places) > 100


def test_trivial_augment_is_decided_per_image():
    out = plain(trivial=True)(repeated(64), "visible", random())
    assert len({picture.numpy().tobytes() for picture in out}) > 20


def test_trivial_augment_is_torchvisions_wide_one():
    """Image by image, from a seed that the generator gives after crops and flips; of images 144
    pixels wide, the shifts too."""
    images, chance = noise(60, height=16, width=144), random(3)
    found = plain(trivial=True)(images, "visible", random(3))
    plain()(images, "visible", chance)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=chance)))
        transform = v2.TrivialAugmentWide()
        changed = [transform(picture.permute(2, 0, 1)).permute(1, 2, 0) for picture in images]
    assert found.equal(normalise(torch.stack(changed)))


@pytest.mark.parametrize("height, width", [(96, 48), (288, 144)])
@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
def test_shifts_are_in_proportion_to_the_width(name, height, width, monkeypatch):
    """Of a white image, the black rows or columns that a shift leaves: up to two ninths of the
    width, in 31 steps of either sign, cut to whole pixels."""
    shifts = {name: _TrivialAugment._AUGMENTATION_SPACE[name]}
    monkeypatch.setattr(_TrivialAugment, "_AUGMENTATION_SPACE", shifts)
    white = torch.full((400, height, width, 3), 255, dtype=torch.uint8)
    out = denormalise(plain(trivial=True)(white, "visible", random()))[..., 0] == 0
    empty = out.all(dim=1 if name == "TranslateX" else 2)  # (n, columns or rows)
    found = set(empty.sum(1).tolist())
    assert found == {int(shift) for shift in torch.linspace(0, 2 / 9 * width, 31)}
    begins, ends = empty[:, 0].float().mean(), empty[:, -1].float().mean()
    assert 0.35 < begins < 0.6 and 0.35 < ends < 0.6


def test_all_but_the_shifts_is_torchvisions():
    theirs, ours = (t._AUGMENTATION_SPACE for t in (v2.TrivialAugmentWide, _TrivialAugment))
    assert list(ours) == list(theirs), "one after the other, as the random numbers count them"
    assert {name for name in ours if ours[name] != theirs[name]} == {"TranslateX", "TranslateY"}


@pytest.mark.parametrize("name", ["flip", "grayscale", "erase"])
def test_certain_and_impossible_decisions(name):
    images = noise(50)
    never = plain(**{name: 0.0})(images, "visible", random())
    always = plain(**{name: 1.0})(images, "visible", random())
    assert never.equal(normalise(images))
    assert (always != never).any(dim=3).any(dim=2).any(dim=1).all()


@pytest.mark.parametrize("modality", ["visible", "infrared"])
def test_a_generator_decides_everything(modality, monkeypatch):
    def no(*_):
        raise AssertionError("CUDA's generators must be left alone")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", no)
    images = noise(40)
    results = []
    for seed in (1, 2):  # of the global generator, which has no say
        torch.default_generator.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(EVERYTHING(images, modality, random(7)))
        assert torch.get_rng_state().equal(before)
    assert results[0].equal(results[1])
    assert not EVERYTHING(images, modality, random(8)).equal(results[0])
    once = random(7)
    EVERYTHING(images, modality, once)
    assert not EVERYTHING(images, modality, once).equal(results[0])  # it moves on


def test_normalised_batches_can_be_learnt_from_after_inference(monkeypatch):
    with torch.inference_mode():
        normalise(noise(1))  # caches the constants
    layer = torch.nn.Conv2d(3, 1, 3)
    layer(normalise(noise(2))).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_seed_means_the_same_on_every_device():
    images = noise(64, 64, 32)
    for augment in (plain(pad=3, flip=0.5, erase=0.5, grayscale=0.5), EVERYTHING):
        here = augment(images, "visible", random())
        for there in (
            augment(images, "visible", random(), "cuda"),
            augment(images.cuda(), "visible", random()),
        ):
            assert there.is_cuda
            # nearest-neighbour warps may round a coordinate to the other side
            differs = ((here - there.cpu()).abs() > 1e-2).float().mean()
            assert differs < (0.01 if augment.trivial else 1e-4)


def test_normalising_leaves_its_input_alone():
    pixels = torch.rand(2, 4, 3, 3) * 255
    before = pixels.clone()
    denormalise(normalise(pixels))
    assert torch.equal(pixels, before)


def test_what_inference_computed_first_serves_gradients_too():
    """Features are extracted before Grad-CAM looks at the same pictures."""
    width = 11  # of no other test: its constants are made here
    with torch.inference_mode():
        normalise(torch.zeros(1, 2, width, 3, dtype=torch.uint8))
    images = torch.zeros(1, 3, 2, width, requires_grad=True)
    assert denormalise(images).dtype == torch.uint8


def test_erased_rectangles_are_taller_than_wide():
    hole = (plain(erase=1.0)(noise(600, 64, 64), "visible", random()) == 0).all(dim=1)
    aspect = hole.any(2).sum(1) / hole.any(1).sum(1)
    assert 1.5 < aspect.median() < 2.1, (
        "height over width, evenly from 0.3 to 3.3: taller than wide"
    )

"""Super-resolution: the network by hand, what it learns, and which pictures it may touch."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from reid_core import records, results, superres
from reid_core.config import RunConfig
from reid_core.data.images import decode, pack
from reid_core.data.index import DatasetError
from reid_core.data.sysu import read_sysu
from reid_core.layers.superres import SRCNN, bicubic, psnr, super_resolve, to_rgb, to_ycbcr
from reid_core.methods import configure
from reid_core.superres import PRINTED, Recipe, compare, crops, lessons, train_srcnn
from reid_core.train import fit

CPU = torch.device("cpu")


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def smoke(seed: int = 0, **overrides) -> RunConfig:
    return configure("baselines", "two-stream", "smoke", {"epochs": 1} | overrides, seed=seed)


# ------------------------------------------------------------------------------------- the layer


def test_colours_are_pillows():
    pixels = (255 * noise(1, 3, 6, 5)).round()
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).byte().numpy()).convert("YCbCr")
    expected = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float()
    found = 255 * to_ycbcr(pixels / 255)[0] + torch.tensor([0.0, 128, 128])[:, None, None]
    assert (found - expected).abs().max() <= 1
    torch.testing.assert_close(255 * to_rgb(to_ycbcr(pixels / 255)), pixels, atol=1e-3, rtol=0)


@pytest.mark.parametrize("factor, size", [(2, (12, 10)), (0.5, (3, 2))])
def test_bicubic_is_pillows(factor, size):
    images = noise(1, 1, 6, 5 if factor == 2 else 4)
    picture = Image.fromarray(images[0, 0].numpy())
    expected = picture.resize(size[::-1], Image.Resampling.BICUBIC)
    torch.testing.assert_close(
        bicubic(images, factor)[0, 0], torch.from_numpy(np.asarray(expected).copy())
    )


def test_psnr_by_hand():
    target = torch.zeros(2, 1, 2, 2)
    images = target.clone()
    images[0, 0, 0, 0], images[1] = 0.2, -3.0  # below 0 is cut off
    assert psnr(images, target).tolist() == pytest.approx([20.0, float("inf")])


@pytest.mark.parametrize("shuffle, factor", [(1, 2), (2, 4)])
def test_layers_of_table_7(shuffle, factor):
    network = SRCNN(shuffle, start="random")
    shapes = [tuple(p.shape) for n, p in network.named_parameters() if n.endswith("weight")]
    assert shapes == [(64, 1, 9, 9), (32, 64, 1, 1), (shuffle**2, 32, 5, 5)]
    assert network(noise(2, 1, 8, 6)).shape == (2, 1, factor * 8, factor * 6)


def test_the_mean_of_shuffled_channels_is_one_convolution():
    """Why averaging the table's 512 to the text's 256 would be no third reading."""
    large, small = SRCNN(2, start="random"), SRCNN(1, start="random")
    for one, many in zip(small.parameters(), large.parameters(), strict=True):
        one.data = many.data if one.shape == many.shape else many.data.mean(dim=0, keepdim=True)
    images = noise(2, 1, 8, 6)
    averaged = torch.nn.functional.avg_pool2d(large(images), 2)
    torch.testing.assert_close(averaged, small(images))


@pytest.mark.parametrize("shuffle", [1, 2])
def test_it_begins_as_the_picture_itself(shuffle):
    images = noise(2, 1, 8, 6)
    expected = bicubic(images, 2).clamp(min=0)  # the network's first ReLU
    expected = expected.repeat_interleave(shuffle, 2).repeat_interleave(shuffle, 3)
    network = SRCNN(shuffle)
    torch.testing.assert_close(network(images), expected)
    network(images).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in list(network.parameters())[-2:])


def test_colours_are_bicubic_and_luminance_is_the_networks():
    images = noise(2, 3, 8, 6) * 0.4 + 0.3
    network = SRCNN(start="random").eval()
    with torch.no_grad():
        network.layers[-2].bias.fill_(0.5)
        y = network(to_ycbcr(images)[:, :1])
    found = to_ycbcr(super_resolve(network, images))
    made = to_rgb(torch.cat([y, bicubic(to_ycbcr(images)[:, 1:], 2)], 1))
    inside = ((made > 0) & (made < 1)).all(dim=1)
    assert inside.float().mean() > 0.9
    torch.testing.assert_close(found[:, 0][inside], y[:, 0][inside], atol=1e-5, rtol=0)
    expected = bicubic(to_ycbcr(images)[:, 1:], 2).permute(0, 2, 3, 1)[inside]
    torch.testing.assert_close(
        found[:, 1:].permute(0, 2, 3, 1)[inside], expected, atol=1e-5, rtol=0
    )
    assert super_resolve(network, noise(1, 3, 4, 4)).min() >= 0


# ---------------------------------------------------------------------------------- its training


@pytest.fixture(scope="module")
def index(tiny_dolls) -> pd.DataFrame:
    return read_sysu(tiny_dolls)


def test_lessons_are_of_one_visible_camera_and_never_of_test_people(index, tiny_dolls):
    """A camera is told by its pictures: their luminances are those of its training files."""
    known = lessons(index, tiny_dolls, 16, seed=0)
    seen = index.query("split == 'train' and modality == 'visible'")["camera"].value_counts()
    assert seen[known.camera] == seen.max()
    own = index.query(f"split == 'train' and camera == {known.camera}")
    grays = {p: to_ycbcr(as_tensor(tiny_dolls / p))[0, 0] for p in own["path"]}
    found = [
        [next(p for p, g in grays.items() if torch.equal(g, picture)) for picture in part]
        for part in (known.learn, known.held_out)
    ]
    people = [{own.set_index("path")["identity"][p] for p in part} for part in found]
    assert sorted(found[0] + found[1]) == sorted(own["path"])
    assert not people[0] & people[1] and len(people[1]) == 1


def as_tensor(path) -> torch.Tensor:
    return torch.from_numpy(decode(path).copy()).permute(2, 0, 1)[None].float() / 255


def test_pictures_smaller_than_a_crop_are_refused(index, tiny_dolls):
    with pytest.raises(DatasetError, match=r"found 0 pictures .* camera . of at least 25 pixels"):
        lessons(index, tiny_dolls, 25, seed=0)


def test_crops_are_parts_of_their_pictures():
    pictures = [torch.arange(48.0).view(6, 8), 100 + torch.arange(35.0).view(5, 7)]
    found = crops(pictures, 40, 5, np.random.default_rng(0))
    assert found.shape == (40, 1, 5, 5)
    corners = set()
    for crop in found[:, 0]:
        picture = pictures[int(crop[0, 0] >= 100)]
        top, left = divmod(int(crop[0, 0]) % 100, picture.shape[1])
        assert torch.equal(crop, picture[top : top + 5, left : left + 5])
        corners.add((int(crop[0, 0] >= 100), top, left))
    assert {(0, 1, 3), (0, 0, 0), (1, 0, 2)} <= corners, "every place can be drawn"


def test_the_network_learns_more_than_bicubic_and_the_seed_decides_it(index, tiny_dolls):
    known = lessons(index, tiny_dolls, 16, seed=0)
    recipe = Recipe(steps=60, batch=8, crop=16)
    network, history = train_srcnn(known.learn, recipe, 0, CPU)
    assert list(history) == ["step", "loss", "seconds"] and history["step"].iloc[-1] == 60
    before = compare(SRCNN().eval(), known.learn, 16, seed=0)
    after = compare(network, known.learn, 16, seed=0)
    assert after["bicubic"] == before["bicubic"] and after["srcnn"] > before["srcnn"] + 0.1
    torch.rand(3)
    again, _ = train_srcnn(known.learn, recipe, 0, CPU)
    other, _ = train_srcnn(known.learn, recipe, 1, CPU)
    weights = [torch.cat([p.flatten() for p in n.parameters()]) for n in (network, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_readings():
    assert superres.recipe_of(smoke()) == Recipe(steps=3)
    printed = superres.recipe_of(smoke(superres_reading="printed", superres_steps=800))
    assert printed == PRINTED
    assert (printed.optimizer, printed.lr, printed.batch, printed.dropout, printed.steps) == (
        "sgd", 0.001, 32, 0.5, 800,
    )  # fmt: skip


# ------------------------------------------------------------------------------------- in a run


@pytest.fixture
def own_places(monkeypatch, tmp_path):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("REID_DATA", str(tmp_path / "data"))


@pytest.fixture
def small_crops(monkeypatch):
    """The tiny dolls are 24 pixels wide."""
    monkeypatch.setattr(superres, "Recipe", lambda **v: Recipe(**{**v, "crop": 16, "batch": 4}))


@pytest.mark.parametrize("split", ["test", "val"])
def test_only_visible_training_pictures_change(split, own_places, small_crops, index, tiny_dolls):
    run = smoke(superres=True, evaluate_on=split)
    pixels = pack(index, tiny_dolls, 48, 24)
    training = index[index["split"].isin(["train", "val"] if split == "test" else ["train"])]
    seen = superres.replace_visible(run, index, training, tiny_dolls, pixels, CPU)
    rows = np.random.default_rng(0).permutation(len(index))
    before, after = pixels.take(rows), seen.take(rows)
    changed = (before != after).flatten(1).any(1).numpy()
    visible = (index["modality"] == "visible") & index.index.isin(training.index)
    np.testing.assert_array_equal(changed, visible.to_numpy()[rows])

    network = superres.obtain(run, index, tiny_dolls, CPU)
    row = np.flatnonzero(visible)[5]
    large = superres.enlarge(network, [tiny_dolls / index["path"][row]], 21)[0].numpy()
    assert large.shape == (42, 42, 3)
    expected = np.asarray(Image.fromarray(large).resize((24, 48), Image.Resampling.LANCZOS))
    found = seen.take(np.array([row]))[0].numpy().astype(int)
    assert np.abs(found - expected).max() <= 1  # another batch size may round otherwise
    assert np.abs(found - before[rows == row][0].numpy()).mean() < 30, "it is still that picture"


def test_training_sees_them_and_measuring_does_not(
    own_places, small_crops, monkeypatch, tiny_dolls
):
    plain, enhanced = fit(smoke(), tiny_dolls), fit(smoke(1, superres=True), tiny_dolls)
    rows = np.arange(len(plain.index))
    assert torch.equal(plain.pixels.take(rows), enhanced.pixels.take(rows))
    again = fit(smoke(1, superres=True, superres_steps=3), tiny_dolls)  # trained: nothing to do
    assert len(again.history) == 1
    monkeypatch.setenv("REID_RESULTS", str(records.folder_of(smoke()) / "elsewhere"))
    other = fit(smoke(1), tiny_dolls)
    assert other.history["total"][0] != enhanced.history["total"][0]


def test_network_is_trained_once_and_bound_to_its_recipe_and_data(
    own_places, small_crops, monkeypatch, index, tiny_dolls, capsys
):
    run = smoke(superres=True)
    first = superres.obtain(run, index, tiny_dolls, CPU)
    assert "step    3/3" in capsys.readouterr().out
    folder = superres.folder_of(run)
    assert folder.parts[-4:] == ("smoke", "paperdolls-sysu", "superres", "working-seed0")
    content = json.loads((folder / "metrics.json").read_text())
    assert content["psnr"].keys() == {"bicubic", "srcnn"}
    assert {"weights.pt", "history.csv"} <= {p.name for p in folder.iterdir()}
    second = superres.obtain(run, index, tiny_dolls, CPU)
    assert capsys.readouterr().out == "" and not second.training
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(records.RunError, match=r"working-seed0: found a network of .*'steps': 3"):
        superres.obtain(smoke(superres=True, superres_steps=4), index, tiny_dolls, CPU)
    with pytest.raises(records.RunError, match="data"):
        superres.obtain(run, index.iloc[1:], tiny_dolls, CPU)
    assert results.table("smoke").empty, "it is no run of a method"


def test_killed_while_training_it_starts_again(
    own_places, small_crops, monkeypatch, index, tiny_dolls
):
    run = smoke(superres=True)
    with monkeypatch.context() as patch:
        patch.setattr(superres, "compare", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            superres.obtain(run, index, tiny_dolls, CPU)
    assert not (superres.folder_of(run) / "metrics.json").exists()
    superres.obtain(run, index, tiny_dolls, CPU)

"""CrossViT: the same numbers as timm's, on rectangles as the equations say, and its weights."""

import urllib.error

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from reid_core.layers.crossvit import CrossViT, MultiScaleEncoder, attend, to_map
from reid_core.layers.crossvit_weights import PUBLISHED, Size, resize_positions

EMBEDDINGS = ["linear", "dagger", "stem"]
TINY = Size(patches=(4, 8), widths=(6, 8), depths=(1, 2), encoders=2, heads=2, mlp_ratio=2)


def timm_model(size: Size = TINY, **settings) -> nn.Module:
    """Of random weights large enough that every one matters."""
    torch.manual_seed(0)
    model = timm.models.crossvit.CrossVit(
        patch_size=size.patches,
        embed_dim=size.widths,
        depth=[[*size.depths, 0]] * size.encoders,
        num_heads=[size.heads] * 2,
        mlp_ratio=[size.mlp_ratio] * 2,
        multi_conv=size.embedding == "dagger",
        num_classes=5,
        **settings,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def varied(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", PUBLISHED)
def test_timms_weights_give_timms_output(name, tmp_path):
    """All tokens of both branches, and the classifiers' logits, on a square of 48 pixels."""
    reference = timm_model(PUBLISHED[name], img_size=48)
    torch.save(reference.state_dict(), tmp_path / "timm.pth")
    model = CrossViT((48, 48), PUBLISHED[name], str(tmp_path / "timm.pth")).eval()
    images = torch.randn(2, 3, 48, 48)
    expected, found = reference.forward_features(images), model(images)
    assert [tuple(z.shape[:2]) for z in found] == [(2, 17), (2, 10)]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    logits = [head(z[:, 0]) for head, z in zip(reference.head, found, strict=True)]
    torch.testing.assert_close(sum(logits) / 2, reference(images), rtol=0, atol=1e-5)


@torch.no_grad()
def test_rectangle_gives_timms_output(tmp_path):
    reference = timm_model(img_size=(32, 16))
    torch.save(reference.state_dict(), tmp_path / "timm.pth")
    model = CrossViT((32, 16), TINY, str(tmp_path / "timm.pth"))
    assert model.grids == [(8, 4), (4, 2)]
    images = torch.randn(2, 3, 32, 16)
    for ours, theirs in zip(model(images), reference.forward_features(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_timms(name, tmp_path):
    """Its registry's models, of 240 and 224 pixels, load; heads leave no trace in the shapes."""
    registered = timm.create_model(f"{name}_240")
    torch.save(registered.state_dict(), tmp_path / "registered.pth")
    CrossViT((48, 96), PUBLISHED[name], str(tmp_path / "registered.pth"))
    heads = {block[0].attn.num_heads for block in registered.blocks[0].blocks}
    assert heads == {PUBLISHED[name].heads}
    assert registered.blocks[0].fusion[0].attn.num_heads in heads


def test_grids_of_the_paper():
    model = CrossViT((288, 144), PUBLISHED["crossvit_9"])
    assert model.grids == [(24, 12), (18, 9)]
    assert [tuple(p.shape) for p in model.E_pos] == [(1, 289, 128), (1, 163, 256)]


@torch.no_grad()
def test_encoder_against_the_equations():
    """Eq. 2, 3 and 5 to 8 written out, one head at a time."""
    torch.manual_seed(0)
    encoder = varied(MultiScaleEncoder(TINY))
    z = [torch.randn(3, 9, 6), torch.randn(3, 3, 8)]

    def softmax_attention(q, k, v):
        heads = []
        for part in range(TINY.heads):
            e = q.shape[-1] // TINY.heads
            own = slice(part * e, (part + 1) * e)
            scores = torch.einsum("bmc,bnc->bmn", q[..., own], k[..., own]) / e**0.5
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            heads.append(torch.einsum("bmn,bnc->bmc", weights, v[..., own]))
        return torch.cat(heads, dim=-1)

    inner = []
    for blocks, tokens in zip(encoder.vit, z, strict=True):
        for block in blocks:
            width = tokens.shape[-1]
            q, k, v = block.msa.qkv(block.ln1(tokens)).split(width, dim=-1)
            tokens = block.msa.proj(softmax_attention(q, k, v)) + tokens  # Eq. 2
            up, gelu, down = block.mlp
            tokens = down(gelu(up(block.ln2(tokens)))) + tokens  # Eq. 3
        inner.append(tokens)
    found = encoder(z)
    for own, other in ((0, 1), (1, 0)):
        joined = torch.cat([encoder.P[own](inner[own][:, :1]), inner[other][:, 1:]], dim=1)  # 5
        cross = encoder.cross[own]
        normed = cross.ln(joined)
        answer = softmax_attention(cross.Vq(normed)[:, :1], cross.Vk(normed), cross.Vv(normed))  # 6
        z_cls = encoder.P[own](inner[own][:, :1]) + cross.proj(answer)  # 7
        torch.testing.assert_close(found[own][:, :1], encoder.BP[own](z_cls))
        torch.testing.assert_close(found[own][:, 1:], inner[own][:, 1:])


@torch.no_grad()
def test_other_readings_of_the_encoder():
    torch.manual_seed(0)
    plain, other, around = (
        varied(MultiScaleEncoder(TINY, **reading))
        for reading in ({}, {"patches": "other"}, {"residual": "encoder"})
    )
    other.load_state_dict(plain.state_dict())
    around.load_state_dict(plain.state_dict())
    z = [torch.randn(3, 9, 6), torch.randn(3, 3, 8)]
    for own, tokens in enumerate(plain(z)):
        swapped = other(z)[own]
        assert swapped.shape == (3, [3, 9][own], [6, 8][own]), "the other branch's patches"
        torch.testing.assert_close(swapped[:, :1], tokens[:, :1])
        inner = plain.vit[1 - own](z[1 - own])
        torch.testing.assert_close(swapped[:, 1:], plain.BP[own](inner[:, 1:]))
        torch.testing.assert_close(around(z)[own], tokens + z[own])


@pytest.mark.parametrize("encoders", [1, 2])
def test_exchanged_patches_end_on_a_known_grid(encoders):
    model = CrossViT((16, 8), TINY._replace(encoders=encoders), patches="other")
    tokens = model(torch.zeros(2, 3, 16, 8))
    grids = [(2, 1), (4, 2)] if encoders == 1 else [(4, 2), (2, 1)]
    for z, grid, width in zip(tokens, grids, TINY.widths, strict=True):
        assert to_map(z, grid).shape == (2, width, *grid)
    assert model.out_grids == grids


@torch.no_grad()
def test_places_of_a_map_are_places_of_the_image():
    """A token's patch, embedded alone, changes that place of the map and no other."""
    model = CrossViT((16, 8), TINY).eval()
    black, spot = torch.zeros(1, 3, 16, 8), torch.zeros(1, 3, 16, 8)
    spot[:, :, 8:12, 4:8] = 1  # row 2, column 1 of branch F
    changed = model.embed(spot)[0] - model.embed(black)[0]
    places = to_map(changed, (4, 2)).abs().sum(1)[0].nonzero().tolist()
    assert places == [[2, 1]] and not changed[:, 0].any()


@torch.no_grad()
@pytest.mark.parametrize("embedding", ["dagger", "stem"])
@pytest.mark.parametrize("patch", [8, 12, 16])
def test_convolutions_embed_every_patch_and_its_neighbourhood(patch, embedding):
    """As many tokens as of linear patches; pixels move their own patch's token, and none farther
    than two patches away."""
    torch.manual_seed(0)
    size = TINY._replace(patches=(patch, patch), widths=(32, 32), embedding=embedding)
    model = CrossViT((7 * patch, 7 * patch), size).eval()
    black, spot = torch.zeros(2, 1, 3, 7 * patch, 7 * patch)
    middle = slice(3 * patch, 4 * patch)
    spot[:, :, middle, middle] = 1
    changed = to_map(model.embed(spot)[0] - model.embed(black)[0], (7, 7)).abs().sum(1)[0]
    assert changed[3, 3] > 0
    changed[1:6, 1:6] = 0
    assert not changed.any()


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_tokens_tell_images_apart_from_the_start(embedding):
    """A new network's numbers are about 1 in a patch token, a fifth of that in its position; and
    its class tokens, of deviation 1, differ between images, where position embeddings of 0.5
    beside tokens of 0.09 once left 0.14."""
    torch.manual_seed(0)
    coarse = torch.randn(64, 3, 6, 3)
    images = F.interpolate(coarse, size=(96, 48), mode="bicubic")
    images = (images - images.mean()) / images.std()
    size = Size((8, 12), widths=(96, 192), depths=(1, 2), encoders=1, heads=3, embedding=embedding)
    model = CrossViT((96, 48), size)
    with torch.no_grad():
        for layer, cls, pos in zip(model.patch, model.x_cls, model.E_pos, strict=True):
            assert 0.5 < layer(images).std() < 1.3
            assert 0.15 < pos.std() < 0.25 and 0.15 < cls.std() < 0.25
        for z in model(images):
            assert z[:, 0].std(0).mean() > 0.4


def test_stem_normalises_after_each_convolution():
    model = CrossViT((16, 16), TINY._replace(patches=(8, 16), embedding="stem"))
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 3
    for layer in model.patch:
        assert [type(part) for part in layer] == kinds[:-1]
        assert all(norm.num_features == conv.out_channels for conv, norm in
                   zip(layer[::3], layer[1::3], strict=True))  # fmt: skip


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_every_weight_learns(embedding):
    torch.manual_seed(0)
    model = CrossViT((16, 16), TINY._replace(patches=(8, 16), embedding=embedding))
    varied(model).train()
    sum((z * torch.randn_like(z)).sum() for z in model(torch.randn(2, 3, 16, 16))).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # the same number added to all keys changes no softmax: only rounding moves their bias
    assert all(name.endswith("Vk.bias") for name in still)


@torch.no_grad()
def test_softmax_is_float32():
    """Of bfloat16 numbers, as autocast makes them: the weights are not rounded before they meet
    v."""
    torch.manual_seed(0)
    q, k = (torch.randn(2, 3, n, 4).bfloat16() for n in (5, 7))
    v = torch.randn(2, 3, 7, 4)
    scores = (q @ k.mT / 2).double()
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    expected = torch.einsum("bhmn,bhnc->bmhc", weights, v.double()).flatten(2).float()
    torch.testing.assert_close(attend(q, k, v), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_stochastic_depth_is_timms(tmp_path):
    """In training, of the same random numbers: none in the first block, most in the last."""
    reference = timm_model(img_size=(32, 16), drop_path_rate=0.6).train()
    torch.save(reference.state_dict(), tmp_path / "timm.pth")
    model = CrossViT((32, 16), TINY, str(tmp_path / "timm.pth"), drop_path=0.6).train()
    images = torch.randn(8, 3, 32, 16)
    torch.manual_seed(3)
    expected = reference.forward_features(images)
    torch.manual_seed(3)
    found = model(images)
    for ours, theirs, kept in zip(found, expected, model.eval()(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        assert not torch.allclose(ours, kept, atol=1e-2), "evaluation drops nothing"


@torch.no_grad()
def test_float64_stays():
    """And float32 is close to it."""
    torch.manual_seed(0)
    model = CrossViT((16, 16), TINY._replace(patches=(8, 16), embedding="stem")).eval()
    images = torch.randn(2, 3, 16, 16)
    rough = model(images)
    for z, expected in zip(rough, model.double()(images.double()), strict=True):
        assert expected.dtype == torch.float64
        torch.testing.assert_close(z, expected.float(), rtol=0, atol=1e-4)


@torch.no_grad()
def test_tokens_stay_float32_under_autocast():
    torch.manual_seed(0)
    model, images = CrossViT((16, 8), TINY).eval(), torch.randn(2, 3, 16, 8)
    exact = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(images)
    for z, expected in zip(found, exact, strict=True):
        assert z.dtype == torch.float32
        assert (z - expected).abs().mean() < 0.03  # of deviation 1; single numbers miss by more


# --------------------------------------------------------------------------------------- weights


@torch.no_grad()
def test_position_embeddings_are_interpolated(tmp_path):
    """As published, of squares of 20 and 14 places a side; every other weight as it is."""
    size = TINY._replace(patches=(12, 16))
    reference = timm_model(size, img_size=240, img_scale=(1.0, 224 / 240))
    rows = torch.arange(20.0).view(1, 1, 20, 1).expand(1, 6, 20, 20)
    reference.pos_embed_0[:, 1:] = rows.flatten(2).mT  # grows by one from row to row
    torch.save(reference.state_dict(), tmp_path / "published.pth")
    model = CrossViT((288, 144), size, str(tmp_path / "published.pth"))
    fine = to_map(model.E_pos[0], (24, 12))[0, 0]
    torch.testing.assert_close(fine, fine[:, :1].expand(-1, 12), rtol=0, atol=1e-3)
    expected = (torch.arange(24) + 0.5) * 20 / 24 - 0.5  # of a row's middle
    torch.testing.assert_close(fine[4:20, 0], expected[4:20], rtol=0, atol=0.01)
    assert model.E_pos[1].shape == (1, 1 + 18 * 9, 8)
    for branch, name in enumerate(("pos_embed_0", "pos_embed_1")):
        published = getattr(reference, name)
        torch.testing.assert_close(model.E_pos[branch][:, 0], published[:, 0])
    torch.testing.assert_close(
        model.encoders[1].vit[1][1].msa.qkv.weight, reference.blocks[1].blocks[1][1].attn.qkv.weight
    )


def test_positions_of_as_many_places_stay():
    positions = torch.randn(1, 1 + 32, 4)
    assert resize_positions(positions, (8, 4)) is positions
    with pytest.raises(ValueError, match=r"positions of 32 places, expected \(6, 3\) or a square"):
        resize_positions(positions, (6, 3))


@torch.no_grad()
def test_the_authors_file_is_downloaded_under_its_name(monkeypatch):
    """Their names have dots where timm's have underscores."""
    reference = timm_model(Size(), img_size=48).state_dict()
    authors = {k.replace("embed_", "embed.").replace("token_", "token."): v
               for k, v in reference.items()}  # fmt: skip
    assert {"pos_embed.0", "cls_token.1", "patch_embed.0.proj.bias"} <= set(authors)
    asked = []

    def download(url, **options):
        asked.append(url)
        assert options["weights_only"] and options["map_location"] == "cpu"
        return authors

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", download)
    model = CrossViT((96, 48), Size(), "imagenet")
    assert asked[0].endswith("/crossvit_15_224.pth")
    torch.testing.assert_close(model.x_cls[1], reference["cls_token_1"])


def test_imagenet_weights_without_network(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(ValueError, match=r"crossvit_9 cannot be downloaded.*fetch https.*'none'"):
        CrossViT((96, 48), PUBLISHED["crossvit_9"], "imagenet")


def test_weights_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "weights.pth"
    with pytest.raises(ValueError, match=r"found no file '.*weights\.pth'"):
        CrossViT((16, 8), TINY, str(file))
    for content in ([1, 2], {"a": torch.zeros(1)}, timm_model(img_size=16).state_dict()):
        torch.save(content, file)
        with pytest.raises(ValueError, match=r"weights: '.*' does not fit Size\(") as error:
            CrossViT((96, 48), PUBLISHED["crossvit_9"], str(file))
        assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((16, 10), TINY), "patches: found 4 pixels for images of 16 × 10, expected a divisor"),
        (((20, 8), TINY), "patches: found 8 pixels for images of 20 × 8, expected a divisor"),
        (((16, 8), TINY._replace(embedding="stem")), "found 4 pixels with embedding 'stem', exp"),
        (((16, 8), TINY._replace(heads=4)), r"heads: found 4 for widths \(6, 8\), expected a div"),
        (((16, 8), TINY, "imagenet"), r"found 'imagenet' for Size\(patches=\(4, 8\).*crossvit_15"),
        (
            ((16, 8), TINY, "none", "other", "encoder"),
            "residual: 'encoder' adds .*expected 'class'",
        ),
    ],
)
def test_wrong_requests(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossViT(*arguments)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"size: found images of \(8, 16\) pixels, expected \(16"):
        CrossViT((16, 8), TINY)(torch.zeros(1, 3, 8, 16))


def test_positions_are_resized_bicubically():
    positions = torch.randn(1, 1 + 16, 3)
    square = positions[:, 1:].reshape(1, 4, 4, 3).permute(0, 3, 1, 2)
    expected = F.interpolate(square, (6, 3), mode="bicubic", antialias=True)
    found = resize_positions(positions, (6, 3))
    torch.testing.assert_close(found[:, 1:].reshape(1, 6, 3, 3).permute(0, 3, 1, 2), expected)
    torch.testing.assert_close(found[:, :1], positions[:, :1])

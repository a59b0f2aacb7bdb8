"""FPRnet: every variant learns, and its parts are put together as the paper's equations say."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reid_core.config import ConfigError, strictly
from reid_core.data.batches import Batch
from reid_core.layers.pooling import BNNeck
from reid_core.layers.svd_linear import SVDLinear, decorrelated, orthogonality
from reid_core.layers.two_stream import MODALITIES
from reid_core.methods import build, configure
from reid_core.methods.fprnet import VARIANTS, Config, Grid, Head, Model, fuse, phase
from reid_core.tables import published
from reid_core.train import fit, make_optimizer

IDENTITIES = 4
BEST = [["r5", "i5", "i4", "r4", "r5", "i5", "i2", "r2"]]
PAPER = {  # the paper's settings, and what is done where it prints none
    "backbone": "resnet50",
    "weights": "imagenet",
    "last_stride": 2,
    "share_from": 5,
    "pyramid_channels": 256,
    "smoothing": "before",
    "fusion": BEST,
    "horizontal": "channels",
    "joint": "batch",
    "domains": "enlarged",
    "svd": "decorrelated",
    "svd_from": 18,
    "svd_epochs": 2,
    "svd_rounds": 7,
    "svd_width": 512,
    "svd_layers": 1,
    "neck": False,
    "fusion_width": 128,
    "fusion_layers": 2,
    "activation": "leaky_relu",
    "fusion_activation": "relu",
    "slope": 0.1,
    "game": "similarity",
    "lambda1": 1.0,
    "lambda2": 1.0,
    "lambda3": 1.0,
    "bias_gradient": False,
}


def grid(text: str) -> list[list[str]]:
    return [row.split() for row in text.split("/")]


TABLE_4 = {  # features and their places as the paper describes them; "/" begins a new row
    "r5-r2-horizontal": "r5 r2 r5 r2",
    "r5-r2-vertical": "r5 / r2 / r5 / r2",
    "r5-r2-hybrid-1": "r5 r2 / r2 r5",
    "r5-r2-hybrid-3": "r5 r2 / r5 r2",
    "i4-i3-horizontal": "i4 i3 i4 i3",
    "i4-i3-vertical": "i4 / i3 / i4 / i3",
    "i4-i3-hybrid-1": "i4 i3 / i3 i4",
    "i4-i3-hybrid-2": "i4 i4 / i3 i3",
    "r5-r3-horizontal": "r5 r3",
    "r5-r3-vertical": "r5 / r3",
    "i3-r3-horizontal": "i3 r3",
    "i3-r3-vertical": "i3 / r3",
    "r5-i5-horizontal": "r5 r5 i5 i5",
    "r5-i5-vertical": "r5 / r5 / i5 / i5",
    "r5-r2-i5-i2-horizontal": "r5 r2 i5 i2",
    "r5-r2-i5-i2-vertical": "r5 / r2 / i5 / i2",
    "r5-r2-i5-i2-hybrid-1": "r5 r2 / i2 i5",
    "r5-r2-i5-i2-hybrid-3": "r5 r2 / i5 i2",
    "r4-r3-i4-i3-horizontal": "r4 r3 i4 i3",
    "r4-r3-i4-i3-vertical": "r4 / r3 / i4 / i3",
    "r4-r3-i4-i3-hybrid-1": "r4 r3 / i3 i4",
    "r4-r3-i4-i3-hybrid-2": "r4 i4 / r3 i3",
    "best-vertical": "r5 / i5 / i4 / r4 / r5 / i5 / i2 / r2",
}
OTHERS = {
    "without-domains": {"domains": "none"},
    "without-joint": {"joint": "none"},
    "without-fusion": {"fusion": []},
    "without-upsampling": {"domains": "own"},
    "single-svd": {"fusion_layers": 1},
    "double-svd": {"svd_layers": 2},
    "both-leaky-relu": {"fusion_activation": "leaky_relu"},
    "both-relu": {"activation": "relu"},
    "resnet": {"fusion": [], "domains": "none", "svd_layers": 0},
    "svdnet": {"fusion": [], "domains": "none", "activation": "none"},
    "released": {
        "smoothing": "after", "horizontal": "batch", "domains": "shared", "svd": "linear_bn",
        "game": "count",
    },
    "along-batch": {"horizontal": "batch"},
    "joint-channels": {"joint": "channels"},
    "shared-head": {"domains": "shared"},
    "linear-bn": {"svd": "linear_bn"},
    "game-count": {"game": "count"},
    "game-minimax": {"game": "minimax"},
    "bias-gradient": {"bias_gradient": True},
}  # fmt: skip
TABLE_3 = {  # columns 2 to 10
    "lambda-1.5-1.5-1.5": (1.5, 1.5, 1.5),
    "lambda-1.2-1.2-1.2": (1.2, 1.2, 1.2),
    "lambda-0.8-0.8-0.8": (0.8, 0.8, 0.8),
    "lambda-1-0.5-0.5": (1.0, 0.5, 0.5),
    "lambda-1-0.3-0.3": (1.0, 0.3, 0.3),
    "lambda-1.5-1.2-1.2": (1.5, 1.2, 1.2),
    "lambda-0.5-0.2-0.3": (0.5, 0.2, 0.3),
    "lambda-0.8-0.15-0.05": (0.8, 0.15, 0.05),
    "lambda-0.4-0.35-0.25": (0.4, 0.35, 0.25),
}


def model_of(variant: str = "fprnet", **overrides) -> Model:
    """With classifiers that have learned something: new ones give the same loss for everyone."""
    torch.manual_seed(0)
    model = build(configure("fprnet", variant, "smoke", overrides), IDENTITIES)
    for head in model.heads.values():
        nn.init.normal_(head.classifier.weight, std=0.3)
        nn.init.normal_(head.classifier.bias, std=0.3)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_a_fixed_batch(variant, batch):
    run = configure("fprnet", variant, "smoke", {"lr": 0.02})
    torch.manual_seed(0)
    model = build(run, IDENTITIES)
    optimizer = make_optimizer(run, model)
    expected = ["joint"]
    if run.model["domains"] != "none":
        expected += ["visible", "infrared", "bias"]
    totals = []
    for step in range(12):
        terms = model.losses(batch, epoch=0 if step == 0 else 1)  # a restraint and its relaxation
        assert list(terms) == expected
        total = sum(terms.values())
        optimizer.zero_grad()
        total.backward()
        frozen = {n for n, p in model.named_parameters() if p.grad is None}
        necks = {f"{n}.bias" for n, m in model.named_modules() if isinstance(m, BNNeck)}
        layers = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, SVDLinear)}
        assert frozen == necks | (layers if step == 0 else set())
        optimizer.step()
        totals.append(sum(term.item() for name, term in terms.items() if name != "bias"))
    assert totals[-1] < 0.8 * totals[0]  # e^|d| is at least 1


def test_variants_are_the_papers_rows():
    """What of the paper's settings each of them changes."""
    changed = {"fprnet": {}, **OTHERS}
    changed |= {name: {"fusion": grid(text)} for name, text in TABLE_4.items()}
    for name, values in TABLE_3.items():
        weights = dict(zip(("lambda1", "lambda2", "lambda3"), values, strict=True))
        changed[name] = {k: v for k, v in weights.items() if v != 1}
    models = {variant: configure("fprnet", variant, "paper").model for variant in VARIANTS}
    found = {
        v: {key: value for key, value in model.items() if value != PAPER[key]}
        for v, model in models.items()
    }
    assert found == changed | {"fprnet-srcnn": {}}
    runs = [configure("fprnet", variant, "paper").to_dict() for variant in VARIANTS]
    for run in runs:  # the name is all that two of the same configuration would differ in
        assert run["superres"] == (run["variant"] == "fprnet-srcnn")
        assert run.pop("rerank") == (run.pop("variant") == "fprnet")
    assert len({str(run) for run in runs}) == len(VARIANTS)


def joining(rows: list[list[str]]) -> str:
    """Table 4's column, by the definitions of §3.1.2."""
    if len(rows) == 1:
        return "horizontal"
    if len(rows[0]) == 1:
        return "vertical"
    across = all(len({name[1] for name in row}) == len(row) for row in rows)
    down = all(len({name[1] for name in column}) == len(rows) for column in zip(*rows, strict=True))
    return {(True, True): "hybrid-1", (False, True): "hybrid-2", (True, False): "hybrid-3"}[
        across, down
    ]


@pytest.mark.parametrize("variant", TABLE_4)
def test_grids_are_what_their_names_say(variant):
    rows = configure("fprnet", variant, "paper").model["fusion"]
    assert variant.endswith(joining(rows))
    names = {name for row in rows for name in row}
    if not variant.startswith("best"):
        assert names == {part for part in variant.split("-") if part in names} != set()


@pytest.mark.parametrize("horizontal", ["channels", "batch"])
@pytest.mark.parametrize("rows", [*map(grid, TABLE_4.values()), BEST], ids=str)
def test_fuse_against_loops(rows, horizontal):
    """Along channels: each grid row gives B vectors of its K features. Along the batch: each of K
    columns gives B vectors of its R features. Row n is of the person of row n mod B."""
    names = sorted({name for row in rows for name in row})
    p = {name: 100.0 * n + torch.arange(6.0).reshape(2, 3) for n, name in enumerate(names)}
    lines = rows if horizontal == "channels" else list(zip(*rows, strict=True))
    expected = []
    for line in lines:
        for b in range(2):
            expected.append([value for name in line for value in p[name][b].tolist()])
    assert fuse(rows, p, horizontal).tolist() == expected


@pytest.mark.parametrize("share_from", range(6))
def test_maps_are_the_stages_of_each_modality(share_from, batch):
    model = model_of(share_from=share_from).eval()
    images = {m: getattr(batch, m) for m in MODALITIES}
    with torch.no_grad():
        found = model.maps(images)
        last = torch.cat([maps[5] for maps in found.values()])
        torch.testing.assert_close(last, model.backbone(images))
        for m, x in images.items():
            x = model.backbone.private[m][0](x) if share_from else model.backbone.shared[0](x)
            for k in range(2, 6):
                stage = k - 1
                own = stage < share_from
                x = (
                    model.backbone.private[m][stage]
                    if own
                    else model.backbone.shared[stage - share_from]
                )(x)
                torch.testing.assert_close(found[m][k], x)
    assert [tuple(found["visible"][k].shape) for k in range(2, 6)] == [
        (8, 32, 12, 6), (8, 64, 6, 3), (8, 128, 3, 2), (8, 256, 2, 1)
    ]  # fmt: skip


# ------------------------------------------------------------------------------------- the losses


def judged(head: Head, x: torch.Tensor) -> torch.Tensor:
    """A head in evaluation mode, layer by layer, with this file's own activations."""
    config = {nn.LeakyReLU: lambda v: torch.where(v > 0, v, 0.1 * v), nn.ReLU: lambda v: v.clamp(0)}
    for layer in head.layers:
        if isinstance(layer, nn.BatchNorm1d):
            x = (x - layer.running_mean) / (layer.running_var + 1e-5).sqrt()
            x = x * layer.weight + layer.bias
        elif isinstance(layer, nn.Linear):
            x = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        else:
            x = config.get(type(layer), lambda v: v)(x)
    return x @ head.classifier.weight.T + head.classifier.bias


READINGS = ["fprnet", *OTHERS, *TABLE_4, "lambda-0.8-0.15-0.05"]


@pytest.mark.parametrize("variant", READINGS)
def test_losses_are_those_of_the_equations(variant, batch):
    """In evaluation mode, where a picture does not depend on its batch: each modality alone."""
    run = configure("fprnet", variant, "smoke").model
    model, y = model_of(variant).eval(), batch.identity
    with torch.no_grad():
        found = model.losses(batch, epoch=5)
        c, p = {}, {}
        for sign, m in zip("ri", MODALITIES, strict=True):
            maps = model.maps({m: getattr(batch, m)})[m]
            c[sign] = maps[5].mean((2, 3))
            if m in model.pyramids:
                p |= {f"{sign}{k}": v for k, v in model.pyramids[m](maps).items()}
        rivals = []
        if run["joint"] != "none":
            axis = 0 if run["joint"] == "batch" else 1
            rivals.append(("joint", torch.cat([c["r"], c["i"]], axis)))
        if run["fusion"]:
            rivals.append(("fusion", fuse(run["fusion"], p, run["horizontal"])))
        losses, right = [], []
        for name, x in rivals:
            logits, people = judged(model.heads[name], x), y.repeat(len(x) // 8)
            losses.append(F.cross_entropy(logits, people))
            right.append((logits.argmax(1) == people).float())
        winner = 0
        if len(rivals) == 2:
            score = {
                "minimax": losses,
                "similarity": [x.mean() for x in right],
                "count": [x.sum() for x in right],
            }[run["game"]]
            winner = int(score[1] > score[0])
        expected = {"joint": losses[winner]}
        if run["domains"] != "none":
            head = model.heads["joint" if run["domains"] == "shared" else "domain"]
            for sign, m in zip("ri", MODALITIES, strict=True):
                x = torch.cat([c[sign]] * (4 if run["domains"] == "enlarged" else 1), 1)
                expected[m] = F.cross_entropy(judged(head, x), y)
            d = expected["joint"] - (expected["visible"] + expected["infrared"]) / 2
            expected["bias"] = d.abs().exp()
    for name, key in (("joint", "lambda1"), ("visible", "lambda2"), ("infrared", "lambda3")):
        if name in expected:
            expected[name] = run[key] * expected[name]
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_only_the_printed_bias_teaches(batch):
    for gradient in (True, False):
        model = model_of(bias_gradient=gradient)
        assert model.losses(batch, 1)["bias"].requires_grad == gradient


def test_wins_are_counted_in_training_and_kept(batch):
    model = model_of("game-count", lambda1=1.0)
    for expected in (1, 2):
        model.losses(batch, 1)
        assert model.wins.sum() == expected
    model.eval().losses(batch, 1)
    assert model.wins.sum() == 2 and "wins" in model.state_dict()
    alone = model_of("without-fusion")
    alone.losses(batch, 1)
    assert not alone.wins.any(), "one head alone plays no game"


@pytest.mark.parametrize("variant", ["fprnet", "released"])
def test_statistics_of_single_modalities_in_training(variant, batch):
    """A neck sees both modalities as one batch, "linear_bn" (released) each by itself."""
    model, y = model_of(variant), batch.identity
    head = model.heads["joint" if variant == "released" else "domain"]
    linear, norm, _ = head.layers
    with torch.no_grad():
        blocks = [maps[5].mean((2, 3)) for maps in model.maps(batch.images).values()]
        terms = model.losses(batch, 1)
        x = torch.cat([b.repeat(1, linear.in_features // b.shape[1]) for b in blocks]).double()
        x = x @ linear.weight.T.double() + (0 if linear.bias is None else linear.bias)
        seen = [x[:8], x[8:]] if variant == "released" else [x]
        x = torch.cat([(v - v.mean(0)) / (v.var(0, unbiased=False) + 1e-5).sqrt() for v in seen])
        x = x * norm.weight + norm.bias
        x = torch.where(x > 0, x, 0.1 * x) @ head.classifier.weight.T.double()
        x = x + head.classifier.bias
    for m, logits in zip(MODALITIES, x.chunk(2), strict=True):
        torch.testing.assert_close(
            terms[m].double(), F.cross_entropy(logits, y), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("neck", [False, True])
def test_shared_head_makes_the_joint_loss_a_mean(neck, batch):
    """Why Eq. 6 needs heads of the modalities' own: else, where the IR-RGB block wins, d = 0."""
    model = model_of("shared-head", fusion=[], neck=neck)
    with torch.no_grad():
        terms = model.losses(batch, 1)
    torch.testing.assert_close(terms["joint"], (terms["visible"] + terms["infrared"]) / 2)
    assert terms["bias"].item() == pytest.approx(1)


def test_order_of_rows_does_not_matter(batch):
    """Pairs of a visible and an infrared picture of one person in another order."""
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    other = Batch(batch.visible[order], batch.infrared[order], batch.identity[order])
    for variant in ("fprnet", "released", "joint-channels", "r5-r2-i5-i2-hybrid-1"):
        model = model_of(variant)
        with torch.no_grad():
            expected, found = model.losses(batch, 1), model.losses(other, 1)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("variant", ["fprnet", "released", "joint-channels", "resnet"])
def test_heads_are_float32_under_autocast(variant, batch):
    model, seen = model_of(variant), []
    for head in model.heads.values():
        for module in head.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.losses(batch, 1)
        embedded = model.eval().embed(batch.visible, "visible")
    assert set(seen) == {torch.float32} and embedded.dtype == torch.float32
    assert all(term.dtype == torch.float32 for term in terms.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_trivial_values_are_those_of_heads_that_tell_nothing(variant, batch):
    """Classifiers without weights. e^|d| is no measure of it: it is 1, its least, there."""
    model = model_of(variant)
    for head in model.heads.values():
        nn.init.zeros_(head.classifier.weight), nn.init.zeros_(head.classifier.bias)
    with torch.no_grad():
        terms = model.losses(batch, 1)
    assert terms.pop("bias", torch.ones(())).item() == pytest.approx(1)
    assert terms.keys() == model.trivial.keys()
    for name, term in terms.items():
        assert term.item() == pytest.approx(model.trivial[name], rel=1e-5)


@pytest.mark.parametrize("variant", ["fprnet", "released", "joint-channels", "svdnet"])
def test_float64_stays(variant, batch):
    model = model_of(variant).double()
    exact = Batch(batch.visible.double(), batch.infrared.double(), batch.identity)
    terms = model.losses(exact, 0)
    sum(terms.values()).backward()
    learned = [p for p in model.parameters() if p.grad is not None]
    with torch.no_grad():
        embedded = model.eval().embed(exact.infrared, "infrared")
    for x in (*terms.values(), embedded, *(p.grad for p in learned)):
        assert x.dtype == torch.float64 and torch.isfinite(x).all()


# ------------------------------------------------------------------------------- what is embedded


@pytest.mark.parametrize("variant", READINGS)
def test_embedding_needs_one_picture_of_one_modality(variant, batch):
    """It is what the classifier of single pictures sees."""
    model = model_of(variant).eval()
    head, seen = model.heads["domain" if "domain" in model.heads else "joint"], []
    head.classifier.register_forward_hook(lambda *call: seen.append(call[1][0]))
    with torch.inference_mode():
        model.losses(batch, 5)
        together = torch.cat([model.embed(getattr(batch, m), m) for m in MODALITIES])
        one = model.embed(batch.infrared[3:4], "infrared")
    found = torch.cat(seen) if len(seen[0]) == 8 else seen[0]
    torch.testing.assert_close(together, found[:16])
    torch.testing.assert_close(one, together[11:12])
    channels = 256 if model.config.svd_layers == 0 else 32
    assert together.shape == (16, channels)


@pytest.mark.parametrize("variant", ["fprnet", "released", "without-joint", "joint-channels"])
def test_what_retrieval_uses_learns_whoever_wins(variant, batch):
    """Else, where the fusion block wins every batch, an untrained head would embed."""
    model = model_of(variant, game="minimax")
    with torch.no_grad():  # fusion is surely wrong, so its loss is L_ri
        model.heads["fusion"].classifier.bias[0] = 1e4
    sum(model.losses(batch, 1).values()).backward()
    learnable = {n: p for n, p in model.heads.named_parameters() if p.requires_grad}
    learned = {n for n, p in learnable.items() if p.grad.abs().sum() > 0}
    model.zero_grad()
    model.eval().embed(batch.visible, "visible").sum().backward()
    used = {n for n, p in learnable.items() if p.grad is not None}
    assert used and used <= learned


def test_enlarging_a_block_copies_it():
    """§3.2's bilinear ×2 of a 1 × 1 map: four times the same. Pooled again, nothing has changed, as
    in the released code; side by side, a layer of the summed weights does the same."""
    block = torch.randn(3, 5)
    large = F.interpolate(block[:, :, None, None], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(large.mean((2, 3)), block)
    copies = model_of().alone(block)
    torch.testing.assert_close(large.permute(0, 2, 3, 1).flatten(1), copies)
    weight = torch.randn(2, 20)
    summed = weight.unflatten(1, (4, 5)).sum(1)
    torch.testing.assert_close(copies @ weight.T, block @ summed.T)
    torch.testing.assert_close(model_of("without-upsampling").alone(block), block)


def test_baselines_of_table_8(batch):
    """ResNet: a classifier on C(5). SVDnet: one linear layer between, nothing else."""
    resnet, svdnet = (model_of(variant, neck=False).eval() for variant in ("resnet", "svdnet"))
    with torch.no_grad():
        c = resnet.backbone({"visible": batch.visible}).mean((2, 3))
        torch.testing.assert_close(resnet.embed(batch.visible, "visible"), c)
        c = svdnet.backbone({"visible": batch.visible}).mean((2, 3))
        (layer, nothing) = svdnet.heads["joint"].layers
        assert isinstance(layer, SVDLinear) and isinstance(nothing, nn.Identity)
        found = svdnet.embed(batch.visible, "visible")
    torch.testing.assert_close(found, c @ layer.weight.T)
    for model in (resnet, svdnet):
        assert set(model.heads) == {"joint"} and not model.pyramids


J, D, S, F2 = (2048, 512), (8192, 512), (512, 512), (128, 64)


@pytest.mark.parametrize(
    ("variant", "sizes"),
    [
        ("fprnet", {"joint": [J], "domain": [D], "fusion": [(2048, 128), F2]}),
        ("released", {"joint": [J], "fusion": [(256, 128), F2]}),
        ("joint-channels", {"joint": [(4096, 512)], "domain": [D], "fusion": [(2048, 128), F2]}),
        ("best-vertical", {"joint": [J], "domain": [D], "fusion": [(256, 128), F2]}),
        ("double-svd", {"joint": [J, S], "domain": [D, S], "fusion": [(2048, 128), F2]}),
        ("single-svd", {"joint": [J], "domain": [D], "fusion": [(2048, 128)]}),
        ("without-upsampling", {"joint": [J], "domain": [J], "fusion": [(2048, 128), F2]}),
        ("resnet", {"joint": []}),
    ],
)
def test_sizes_of_the_paper_profile(variant, sizes):
    model = build(configure("fprnet", variant, "paper", {"weights": "none"}), 395)
    found = {
        name: [(m.in_features, m.out_features) for m in head.layers if isinstance(m, nn.Linear)]
        for name, head in model.heads.items()
    }
    assert found == sizes
    kind = nn.Linear if variant == "released" else SVDLinear
    assert all(type(head.layers[0]) is kind for head in model.heads.values() if len(head.layers))
    assert {head.classifier.out_features for head in model.heads.values()} == {395}


@pytest.mark.parametrize(
    ("profile", "sizes"),
    [
        ("paper", [(72, 36), (36, 18), (18, 9), (9, 5)]),  # Tables 1 and 2
        ("demo", [(24, 12), (12, 6), (6, 3), (6, 3)]),  # C(5) at a stride of 1
    ],
)
def test_sizes_of_the_maps(profile, sizes):
    run = configure("fprnet", "fprnet", profile, {"weights": "none"})
    with torch.device("meta"):
        model = build(run, 395)
        found = model.maps({m: torch.empty(2, 3, run.height, run.width) for m in MODALITIES})
    for maps in found.values():
        assert [tuple(maps[k].shape[2:]) for k in range(2, 6)] == sizes


# --------------------------------------------------------------------- restraint and relaxation


def test_rounds_by_hand():
    config = Config(svd_from=3, svd_epochs=2, svd_rounds=2)
    found = [phase(config, epoch) for epoch in range(13)]
    restraint = [3, 4, 7, 8]
    assert [e for e, (fixed, _) in enumerate(found) if fixed] == restraint
    assert [e for e, (_, begins) in enumerate(found) if begins] == [3, 7]
    begins = [e for e in range(60) if phase(Config(), e)[1]]
    assert begins == [18, 22, 26, 30, 34, 38, 42], "three before the rate falls at 30, four after"


@pytest.mark.parametrize("profile", ["demo", "gpu", "paper"])
def test_rounds_begin_while_the_rate_is_high_and_leave_time_to_recover(profile):
    run = configure("fprnet", "fprnet", profile)
    fixed = [e for e in range(run.epochs) if phase(strictly(Config, run.model, "fprnet"), e)[0]]
    after = run.epochs - (fixed[-1] + 1 + run.model["svd_epochs"])
    assert fixed[0] < run.epochs / 3 and after >= run.epochs / 5
    rounds = run.model["svd_rounds"] * run.model["svd_epochs"]
    assert len(fixed) == rounds, "all rounds fit into the run"


def test_restraint_and_relaxation(batch):
    """W becomes U S once, stays through the restraint while all else learns, and then learns."""
    run = configure("fprnet", "fprnet", "smoke", {"svd_from": 1, "svd_epochs": 2, "svd_rounds": 2})
    model = build(run, IDENTITIES)
    optimizer = make_optimizer(run, model)
    layers = [m for m in model.modules() if isinstance(m, SVDLinear)]
    assert len(layers) == 4

    def step(epoch: int) -> list[torch.Tensor]:
        before = [layer.weight.detach().clone() for layer in layers]
        head = model.heads["joint"].classifier.weight.detach().clone()
        total = sum(model.losses(batch, epoch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        assert not torch.equal(head, model.heads["joint"].classifier.weight) or epoch > 3
        return before

    before = step(0)
    assert all(not torch.equal(w, m.weight) for w, m in zip(before, layers, strict=True))
    learned = [m.weight.detach().clone() for m in layers]
    for epoch in (1, 1, 2):
        step(epoch)
        for w, layer in zip(learned, layers, strict=True):
            torch.testing.assert_close(layer.weight.detach(), decorrelated(w))
            assert orthogonality(layer.weight) == pytest.approx(1, abs=1e-4)
    assert model.decorrelated_in == 1
    step(3)
    assert all(m.weight.requires_grad for m in layers)
    assert min(orthogonality(m.weight) for m in layers) < 1 - 1e-6
    model.eval()
    model.losses(batch, 5)
    assert model.decorrelated_in == 1, "measuring changes no weight"


def test_released_reading_has_nothing_to_decorrelate(batch):
    model = model_of("released")
    before = {k: v.clone() for k, v in model.heads.state_dict().items() if "weight" in k}
    model.losses(batch, 0)
    assert all(torch.equal(v, model.heads.state_dict()[k]) for k, v in before.items())


class Killed(BaseException):
    pass


@pytest.mark.parametrize("variant", ["fprnet", "released"])
def test_killed_run_ends_as_one_that_was_not(variant, monkeypatch, tmp_path, tiny_dolls):
    """Killed within every epoch after its first batch, so also within a restraint whose W is U S
    already; what was decorrelated for the lost epoch is done again."""
    settings = {"epochs": 5, "steps": 2, "svd_from": 1}
    run = configure("fprnet", variant, "smoke", settings | {"svd_rounds": 2})
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "whole"))
    expected = fit(run, tiny_dolls).model.state_dict()
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "killed"))
    losses = Model.losses
    for epoch in range(5):
        calls = []

        def spoiled(model, batch, number, epoch=epoch, calls=calls):
            calls.append(number)
            if calls.count(epoch) == 2:
                raise Killed
            return losses(model, batch, number)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Model, "losses", spoiled)
            fit(run, tiny_dolls)
    found = fit(run, tiny_dolls).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    assert found["decorrelated_in"] == 3


# ------------------------------------------------------------------------------ settings, numbers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fusion": [["r5", "r2"], ["i5"]]}, r"fusion: found rows of \[1, 2\]"),
        ({"fusion": [[]]}, r"fusion: found rows of \[0\]"),
        ({"fusion": [["r6"]]}, "fusion"),
        ({"joint": "none", "fusion": []}, "joint: found 'none' without fusion"),
        ({"joint": "none", "domains": "none"}, "domains: found 'none' with joint 'none'"),
        ({"joint": "channels", "domains": "shared"}, "domains: found 'shared' with joint 'chan"),
        ({"joint": "none", "domains": "shared"}, "domains: found 'shared' with joint 'none'"),
        ({"joint": "channels", "domains": "none"}, "domains: found 'none' with joint 'channels'"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        configure("fprnet", "fprnet", "smoke", settings)


def test_recipe_is_the_papers():
    """§4.2, and what is not printed there; pairs of one picture each, as released."""
    run = configure("fprnet", "fprnet", "paper")
    assert (run.optimizer, run.lr, run.milestones, run.gamma, run.warmup) == (
        "sgd", 0.01, (30,), 0.1, 0
    )  # fmt: skip
    assert (run.epochs, run.identities, run.images) == (60, 32, 1)
    assert (run.momentum, run.nesterov, run.weight_decay, run.backbone_lr) == (0.9, True, 5e-4, 0.1)
    assert (run.height, run.width, run.pad, run.flip) == (288, 144, 10, 0.5)
    assert (run.erase, run.grayscale, run.trivial_augment) == (0, 0, False)
    assert run.model == PAPER


def test_printed_tables_add_up():
    """Columns re-added by hand from the paper, and every row there."""
    printed = published("fprnet")
    horizontal = 27.79 + 27.89 + 28.42 + 27.96 + 26.82 + 28.03 + 28.05 + 29.28
    vertical = 52.27 + 51.87 + 53.71 + 52.22 + 50.69 + 53.24 + 52.83 + 53.12
    hybrid = 29.90 + 29.06 + 30.23 + 29.42 + 29.72 + 29.30 + 29.84 + 26.79
    for query, metric, total in (
        ("table == 'T3'", "mAP", 291.93),
        ("table == 'T4' and method.str.contains('horizontal')", "rank1", horizontal),
        ("table == 'T4' and method.str.contains('vertical')", "rank5", vertical),
        ("table == 'T4' and method.str.contains('hybrid')", "mAP", hybrid),
        ("table == 'T5'", "rank1", 24.30 + 25.40 + 26.08 + 26.91),
        ("table == 'T5'", "mAP", 27.51 + 28.79 + 28.78 + 29.55),
        ("table == 'T6'", "rank5", 51.76 + 53.27 + 52.74 + 51.96),
        ("table == 'T6'", "rank20", 78.95 + 78.86 + 77.67 + 78.70),
        ("table == 'T8'", "rank1", 229.99),
        ("table == 'T8'", "mAP", 253.26),
    ):
        column = printed.query(query).query("metric == @metric")["value"]
        assert column.sum() == pytest.approx(total), (query, metric)
    assert printed["table"].value_counts().to_dict() == {
        "T3": 10, "T4": 24 * 3, "T5": 4 * 4, "T6": 4 * 4, "T8": 11 * 4
    }  # fmt: skip
    assert set(printed["dataset"]) == {"sysu"} and set(printed["mode"]) == {"all"}


def test_every_row_of_the_paper_points_to_its_variant():
    printed = published("fprnet")
    ours = printed.groupby("table")["variant"].agg(set)
    assert ours["T3"] == {f"fprnet/{v}" for v in ("fprnet", *TABLE_3)}
    assert ours["T4"] == {f"fprnet/{v}" for v in ("fprnet", *TABLE_4)}
    names = list(OTHERS)
    assert ours["T5"] == {f"fprnet/{v}" for v in names[:4]}
    assert ours["T6"] == {f"fprnet/{v}" for v in names[4:8]}
    t8 = printed.query("table == 'T8'").drop_duplicates("method").set_index("method")["variant"]
    assert t8.to_dict() == {
        "One-stream": "baselines/one-stream",
        "Two-stream": "baselines/two-stream",
        "Zero-padding": "baselines/zero-padding",
        "CmGAN": "",
        "BCTR": "",
        "BDTR": "",
        "ResNet-50": "fprnet/resnet",
        "SVDnet": "fprnet/svdnet",
        "FPRnet": "fprnet/fprnet",
        "FPRnet+SRCNN": "fprnet/fprnet-srcnn",
        "FPRnet+reranking": "fprnet/fprnet",
    }
    for row in printed.query("table == 'T3'").itertuples():
        printed_weights = [float(x) for x in row.method.split("(")[1].strip(")").split(", ")]
        run = configure("fprnet", row.variant.split("/")[1], "paper").model
        assert printed_weights == [run["lambda1"], run["lambda2"], run["lambda3"]]
    for row in printed.query("table == 'T4'").itertuples():
        features, joined = row.method.split(", ")
        rows = configure("fprnet", row.variant.split("/")[1], "paper").model["fusion"]
        names = features.replace("P", "").replace("(", "").replace(")", " ").split()
        assert sorted(n for r in rows for n in r) == sorted(names)
        assert joining(rows) == joined.replace(" ", "-")


def test_paper_agrees_with_itself():
    """The best column, row and method are one run, and the text's differences are the tables'; the
    two that it calls zero-padding's are one-stream's, the second of them at rank 10."""
    rows = published("fprnet")
    best = rows.query("variant == 'fprnet/fprnet' and method != 'FPRnet+reranking'")
    assert best.query("metric == 'mAP'")["value"].unique().tolist() == [31.43]
    t8 = published("fprnet").query("table == 'T8'").pivot(index="method", columns="metric")["value"]
    fpr, one = t8.loc["FPRnet"], t8.loc["One-stream"]
    assert math.isclose(fpr["rank1"] - one["rank1"], 17.24, abs_tol=1e-9)
    assert math.isclose(fpr["rank10"] - one["rank10"], 18.75, abs_tol=1e-9)
    assert math.isclose(t8.loc["FPRnet+SRCNN", "mAP"] - t8.loc["CmGAN", "mAP"], 4.32, abs_tol=1e-9)


def test_config_takes_a_grid_of_lists_and_keeps_it():
    run = configure("fprnet", "fprnet", "smoke", {"fusion": [["r5", "i2"], ["i3", "r4"]]})
    model = build(run, IDENTITIES)
    assert model.config.fusion == (("r5", "i2"), ("i3", "r4"))
    assert set(model.pyramids["visible"].levels) == {4, 5}
    assert set(model.pyramids["infrared"].levels) == {2, 3}
    assert Grid  # the type that says what a grid is


def test_activations_of_the_heads():
    for variant, fusion, others in (
        ("fprnet", nn.ReLU, nn.LeakyReLU),
        ("both-leaky-relu", nn.LeakyReLU, nn.LeakyReLU),
        ("both-relu", nn.ReLU, nn.ReLU),
    ):
        for name, head in model_of(variant).heads.items():
            kinds = {type(m) for m in head.layers if isinstance(m, nn.ReLU | nn.LeakyReLU)}
            assert kinds == {fusion if name == "fusion" else others}, (variant, name)


def test_the_larger_loss_wins(batch):
    model = model_of("game-minimax")
    for head, expected in (("joint", [1, 0]), ("fusion", [1, 1])):
        with torch.no_grad():
            for name in ("joint", "fusion"):  # the larger loss counts: who is surely wrong
                model.heads[name].classifier.weight.zero_()
                model.heads[name].classifier.bias.zero_()
            model.heads[head].classifier.bias[0] = 50.0
        model.losses(batch, 1)
        assert model.wins.tolist() == expected

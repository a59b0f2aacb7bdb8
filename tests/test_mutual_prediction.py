"""Mutual prediction: each term against a naive reference, who learns from it, and when."""

from math import exp, log

import pytest
import torch
from torch import nn

from reid_core.data.batches import Batch
from reid_core.layers.two_stream import MODALITIES
from reid_core.losses.metric import metric_loss
from reid_core.losses.mutual_prediction import (
    fixed_identity_loss,
    identity_loss,
    mutual_prediction_loss,
)
from reid_core.losses.triplet import batch_hard_triplet
from reid_core.methods import build, configure
from reid_core.methods.mutual_prediction import VARIANTS, FineGrained, Model, phase
from reid_core.train import make_optimizer

IDENTITIES = 4


def cross_entropy(features: torch.Tensor, classifier: nn.Linear, identity: torch.Tensor) -> float:
    """−(1/n) Σ_i log softmax(W f_i)[y_i], number by number."""
    weight, total = classifier.weight.tolist(), 0.0
    bias = [0.0] * len(weight) if classifier.bias is None else classifier.bias.tolist()
    for f, y in zip(features.tolist(), identity.tolist(), strict=True):
        logits = [
            sum(a * b for a, b in zip(row, f, strict=True)) + c
            for row, c in zip(weight, bias, strict=True)
        ]
        total -= log(exp(logits[y]) / sum(exp(z) for z in logits))
    return total / len(features)


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def toy(request):
    torch.manual_seed(0)
    features = {m: torch.randn(6, 5, dtype=torch.double) for m in MODALITIES}
    of = {"bias": request.param, "dtype": torch.double}
    classifiers = nn.ModuleDict({m: nn.Linear(5, 3, **of) for m in MODALITIES})
    return features, classifiers, torch.tensor([0, 1, 2, 2, 1, 0])


def test_identity_loss_is_the_sum_over_modalities(toy):
    f, w, y = toy
    expected = sum(cross_entropy(f[m], w[m], y) for m in MODALITIES)
    assert identity_loss(f, w, y).item() == pytest.approx(expected)
    shared = dict.fromkeys(MODALITIES, w["visible"])
    expected = sum(cross_entropy(f[m], w["visible"], y) for m in MODALITIES)
    assert identity_loss(f, shared, y).item() == pytest.approx(expected)


def test_mutual_prediction_goes_through_the_other_classifier(toy):
    f, w, y = toy
    expected = cross_entropy(f["visible"], w["infrared"], y)
    expected += cross_entropy(f["infrared"], w["visible"], y)
    assert mutual_prediction_loss(f, w, y).item() == pytest.approx(expected)


def test_fixed_identity_loss_is_the_identity_loss(toy):
    f, w, y = toy
    assert fixed_identity_loss(f, w, y).item() == pytest.approx(identity_loss(f, w, y).item())


@pytest.mark.parametrize("loss", [identity_loss, fixed_identity_loss, mutual_prediction_loss])
def test_gradients_and_row_order(loss, toy):
    f, w, y = toy

    def of(visible, infrared):
        return loss({"visible": visible, "infrared": infrared}, w, y)

    leaves = [x.clone().requires_grad_() for x in f.values()]
    assert torch.autograd.gradcheck(of, leaves)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    mixed = loss({m: x[order] for m, x in f.items()}, w, y[order])
    torch.testing.assert_close(mixed, loss(f, w, y))


@pytest.mark.parametrize("fixed", [fixed_identity_loss, mutual_prediction_loss])
def test_classifiers_learn_from_their_own_modality_only(fixed, toy):
    """Eq. 11 trains W_v and W_t; of Eq. 12 nothing reaches them."""
    f, w, y = toy
    leaves = {m: x.clone().requires_grad_() for m, x in f.items()}
    fixed(leaves, w, y).backward()
    assert all(p.grad is None for p in w.parameters())
    assert all(x.grad.abs().sum() > 0 for x in leaves.values())
    identity_loss(leaves, w, y).backward()
    assert all(p.grad.abs().sum() > 0 for p in w.parameters())


def test_stripes_against_a_loop():
    torch.manual_seed(0)
    layer, maps = FineGrained(channels=3, stripes=2, stripe_channels=4), torch.randn(2, 3, 4, 5)
    found = layer(maps)
    assert found.shape == (2, 8)
    for stripe in range(2):
        weight, bias = layer.conv[stripe].weight[:, :, 0, 0], layer.conv[stripe].bias
        for image in range(2):
            for channel in range(4):
                values = [
                    max(0.0, (weight[channel] @ maps[image, :, y, x] + bias[channel]).item())
                    for y in (2 * stripe, 2 * stripe + 1)
                    for x in range(5)
                ]
                expected = sum(values) / len(values)
                assert found[image, 4 * stripe + channel].item() == pytest.approx(
                    expected, abs=1e-5
                )


def test_impossible_stripes_are_refused():
    with pytest.raises(ValueError, match="stripes: the feature map has 9 rows, which 6 stripes"):
        FineGrained(3, 6, 2)(torch.zeros(1, 3, 9, 2))


# ---------------------------------------------------------------------------- schedule (§3.5.2)


def test_phases_of_the_papers_schedule():
    model = model_of("fgfl-cmimpl", profile="paper", weights="none", backbone="resnet10_half")
    active = [phase(model.config, epoch) for epoch in range(80)]
    assert set(active[:20]) == {(False, False)}
    for block in range(12):
        expected = (True, False) if block % 2 == 0 else (False, True)
        assert active[20 + 5 * block : 25 + 5 * block] == [expected] * 5


@pytest.mark.parametrize("profile", ["demo", "gpu", "paper"])
def test_mutual_terms_have_the_papers_share_of_the_epochs(profile):
    """A quarter without them, then both in as many epochs."""
    run = configure("mutual_prediction", "fgfl-cmimpl", profile)
    config = model_of("fgfl-cmimpl", profile, weights="none", backbone="resnet10_half").config
    active = [phase(config, epoch) for epoch in range(run.epochs)]
    found = [active.count(turn) / run.epochs for turn in ((True, False), (False, True))]
    assert found == [3 / 8, 3 / 8]
    assert active.index((True, False)) == run.epochs / 4


def test_literal_sum_of_equation_13():
    config = model_of("both-terms").config
    assert [phase(config, epoch) for epoch in range(3)] == [(True, True)] * 3


def test_alpha_and_beta_of_each_dataset():
    weights = {}
    for dataset in ("sysu", "regdb", "paperdolls-sysu", "paperdolls-regdb"):
        model = configure("mutual_prediction", "fgfl-cmimpl", "paper", dataset=dataset).model
        weights[dataset] = (model["alpha"], model["beta"])
    assert weights["sysu"] == weights["paperdolls-sysu"] == (12.2, 0.4)
    assert weights["regdb"] == weights["paperdolls-regdb"] == (35.0, 4.0)
    moved = configure("mutual_prediction", "alpha-1", "paper", dataset="regdb").model
    assert (moved["alpha"], moved["beta"]) == (1.0, 4.0)


# ------------------------------------------------------------------------------------ the model


def model_of(variant: str, profile: str = "smoke", **overrides) -> Model:
    torch.manual_seed(0)
    return build(configure("mutual_prediction", variant, profile, overrides), IDENTITIES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_a_fixed_batch(variant, batch):
    model = model_of(variant)
    lr = 0.01 / (1 + model.config.alpha)  # what is steady for alpha 0.1 is not for 70
    run = configure("mutual_prediction", variant, "smoke", {"lr": lr})
    optimizer = make_optimizer(run, model)
    totals = {0: [], 1: []}
    for step in range(20):
        terms = model.losses(batch, epoch=step % 2)
        total = sum(terms.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals[step % 2].append(total.item())
    assert all(found[-1] < 0.8 * found[0] for found in totals.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_terms_of_the_two_phases(variant, batch):
    config = configure("mutual_prediction", variant, "smoke").model
    first, second = (set(model_of(variant).losses(batch, epoch)) for epoch in (0, 1))
    always = {"identity", "triplet"}
    if not config["mutual"]:
        assert first == second == always
    elif config["alternate"] == 0:
        assert first == second == always | {"specific", "mutual"}
    else:
        assert (first, second) == (always | {"specific"}, always | {"mutual"})


def test_terms_are_those_of_equation_13(batch):
    """Recomputed from what ``embed`` returns and the classifiers' weights."""
    model = model_of("both-terms", alpha=3.0, beta=0.7, neck=False).eval()
    with torch.no_grad():
        terms = model.losses(batch, epoch=0)
        f = {m: model.embed(getattr(batch, m), m) for m in MODALITIES}
        y = batch.identity
        own = sum(cross_entropy(f[m], model.W[m], y) for m in MODALITIES)
        crossed = cross_entropy(f["visible"], model.W["infrared"], y)
        crossed += cross_entropy(f["infrared"], model.W["visible"], y)
        shared = sum(cross_entropy(f[m], model.W_id, y) for m in MODALITIES)
        triplet = batch_hard_triplet(torch.cat(list(f.values())), y.repeat(2), 0.3)
    expected = {
        "identity": shared,
        "triplet": triplet,
        "specific": 3 * own,
        "mutual": 0.7 * crossed,
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(
        {k: float(v) for k, v in expected.items()}, rel=1e-4
    )


@pytest.mark.parametrize(
    "variant", ["fgfl-cmimpl", "beta-10-own", "beta-10-shared", "without-neck"]
)
def test_who_learns_in_which_phase(variant, batch):
    """§3.5.2: every term trains the encoder; the classifiers W_v and W_t learn from L_v-t alone,
    and stay as they are through an epoch of L_t-v, momentum and weight decay included. W_id learns
    from L_ID in both."""
    model = model_of(variant)
    optimizer = make_optimizer(configure("mutual_prediction", variant, "smoke"), model)
    for epoch in (0, 1):
        optimizer.zero_grad()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        sum(model.losses(batch, epoch).values()).backward()
        optimizer.step()
        still = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
        fixed = {n for n in before if n == "neck.bias" or (epoch == 1 and n.startswith("W."))}
        assert still == fixed
        assert model.backbone.private["visible"][0][0].weight.grad.abs().sum() > 0


REACHED = {  # §3.5.2: every term trains the encoder
    "identity": {"E_v", "E_t", "E_vt", "stripes", "W_id"},
    "triplet": {"E_v", "E_t", "E_vt", "stripes"},
    "specific": {"E_v", "E_t", "E_vt", "stripes", "W_v", "W_t"},
    "mutual": {"E_v", "E_t", "E_vt", "stripes"},
}


@pytest.mark.parametrize("term, expected", REACHED.items())
def test_which_part_learns_from_which_term(term, expected, batch):
    model = model_of("both-terms", margin=100.0)  # which no triplet of the batch keeps
    f = keep_features(model)
    model.losses(batch, epoch=0)[term].backward()
    private = model.backbone.private
    parts = {"E_v": private["visible"], "E_t": private["infrared"], "E_vt": model.backbone.shared}
    parts |= {"stripes": model.stripes, "W_id": model.W_id}
    parts |= {"W_v": model.W["visible"], "W_t": model.W["infrared"]}
    for name, part in parts.items():
        touched = [p.grad is not None and bool(p.grad.any()) for p in part.parameters()]
        assert touched == [name in expected] * len(touched), name
    rows = f[0].grad.abs().sum(1).reshape(2, -1).sum(1)
    assert (rows > 0).all(), "the features of both modalities learn"


@pytest.mark.parametrize(
    "judge, inputs", [("own", "fine"), ("own", "global"), ("shared", "global")]
)
def test_controls_have_the_same_weight_and_no_crossing(judge, inputs, batch):
    """β times the identity losses of the modality's own classifier, or of W_id, which sees f^m
    whatever W_v and W_t see. Their gradients reach no classifier."""
    model = model_of("both-terms", judge=judge, beta=10.0, classifier_input=inputs, margin=100.0)
    nn.init.normal_(model.W_id.weight)
    for w in model.W.values():
        nn.init.normal_(w.weight)
    f = keep_features(model)
    term = model.losses(batch, epoch=0)["mutual"]
    term.backward()
    assert all(p.grad is None for part in (model.W_id, model.W) for p in part.parameters())
    assert (f[0].grad.abs().sum(1) > 0).all(), "the features of both modalities learn"
    with torch.no_grad():
        seen = dict(zip(MODALITIES, model.train().neck(f[0]).chunk(2), strict=True))
    judges = model.W if judge == "own" else dict.fromkeys(MODALITIES, model.W_id)
    width = next(iter(judges.values())).in_features
    own = sum(cross_entropy(seen[m][:, :width], judges[m], batch.identity) for m in MODALITIES)
    assert term.item() == pytest.approx(10 * own, rel=1e-4)


def test_baseline_is_the_two_stream_network_with_twice_its_identity_loss(batch):
    """DSN (§3.2) and ``baselines/two-stream`` from the same weights: Eq. 1 adds the two modalities'
    means, and the code it follows takes the mean of both."""
    model = model_of("baseline").double()
    other = build(configure("baselines", "two-stream", "smoke"), IDENTITIES).double()
    other.backbone.load_state_dict(model.backbone.state_dict())
    other.head.neck.load_state_dict(model.neck.state_dict())
    other.head.classifier.load_state_dict(model.W_id.state_dict())
    wide = Batch(batch.visible.double(), batch.infrared.double(), batch.identity)
    ours, theirs = (m.losses(wide, 0) for m in (model, other))
    assert ours["identity"].item() == pytest.approx(2 * theirs["identity"].item(), rel=1e-12)
    assert ours["triplet"].item() == pytest.approx(theirs["triplet"].item(), rel=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_stays_float64(variant, batch):
    model = model_of(variant).double()
    wide = Batch(batch.visible.double(), batch.infrared.double(), batch.identity)
    terms = {k: v for epoch in (0, 1) for k, v in model.losses(wide, epoch).items()}
    features = [model.eval().embed(getattr(wide, m), m) for m in MODALITIES]
    for found in (*terms.values(), *features):
        assert found.dtype == torch.float64 and torch.isfinite(found).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_trivial_values_are_those_of_features_that_carry_nothing(variant, batch):
    """All features one point, and classifiers that have learnt nothing."""
    model = model_of(variant)
    for parameter in [p for n, p in model.named_parameters() if n.startswith("W")]:
        nn.init.zeros_(parameter)
    width = model.W_id.in_features
    model.features = lambda images: torch.ones(16, width)
    terms = {k: v.item() for epoch in (0, 1) for k, v in model.losses(batch, epoch).items()}
    assert terms == pytest.approx(model.trivial, rel=1e-6)


def test_classifiers_of_the_neck_and_of_the_literal_reading():
    model, literal = model_of("fgfl-cmimpl"), model_of("without-neck")
    for classifier in (model.W_id, *model.W.values()):
        assert classifier.bias is None
        assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert all(w.bias is not None for w in (literal.W_id, *literal.W.values()))
    assert isinstance(literal.neck, nn.Identity)


@pytest.mark.parametrize(
    "variant, metric",
    [
        ("batch-hard", "batch_hard"),
        ("soft-margin", "batch_hard_soft"),
        ("unit-triplet", "batch_hard_unit"),
    ],
)
def test_metric_of_the_triplet_term(variant, metric, batch):
    """In ``demo`` too, whose default is another one."""
    visible, infrared = (x.repeat(1, 1, 2, 2) for x in batch.images.values())
    large = Batch(visible, infrared, batch.identity)
    model = model_of(variant, "demo").eval()
    with torch.no_grad():
        found, f = model.losses(large, 0)["triplet"], model.features(large.images)
    torch.testing.assert_close(found, metric_loss(metric, f, batch.identity, 0.3))


def keep_features(model: Model) -> list[torch.Tensor]:
    """f^m of the next call of ``losses``, with its gradient after the backward pass."""
    seen, features = [], model.features

    def watched(images):
        seen.append(features(images))
        seen[0].retain_grad()
        return seen[0]

    model.features = watched
    return seen


def test_the_stem_alone_is_private():
    """§3.5.1: Conv1 is each modality's own, Conv2 to Conv5 are shared."""
    assert len(model_of("baseline").backbone.private["visible"]) == 1


def test_neck_stands_before_the_classifiers_and_the_retrieval_not_before_the_triplet(batch):
    model = model_of("both-terms", neck=True, margin=0.9, alpha=1.0, beta=1.0).eval()
    for values in (model.neck.weight, model.neck.running_mean, model.neck.running_var):
        nn.init.uniform_(values, 0.5, 2)
    images = {m: getattr(batch, m) for m in MODALITIES}
    with torch.no_grad():
        terms = model.losses(batch, epoch=0)
        f, y = model.features(images), batch.identity
        f_hat = {m: model.embed(images[m], m) for m in MODALITIES}
        torch.testing.assert_close(torch.cat(list(f_hat.values())), model.neck(f))
        assert not torch.allclose(model.neck(f), f)
        shared = dict.fromkeys(MODALITIES, model.W_id)
        torch.testing.assert_close(terms["identity"], identity_loss(f_hat, shared, y))
        torch.testing.assert_close(terms["specific"], identity_loss(f_hat, model.W, y))
        torch.testing.assert_close(terms["mutual"], mutual_prediction_loss(f_hat, model.W, y))
        torch.testing.assert_close(terms["triplet"], batch_hard_triplet(f, y.repeat(2), 0.9))


def test_feature_is_global_and_stripes_side_by_side(batch):
    """3 584 = 2 048 + 6 · 256 columns in the paper; the first of them the global average."""
    model = model_of("fgfl", neck=False).eval()
    with torch.no_grad():
        f = model.embed(batch.visible, "visible")
        maps = model.backbone({"visible": batch.visible})
    assert f.shape == (8, 256 + 3 * 256) and model.W_id.in_features == f.shape[1]
    torch.testing.assert_close(f[:, :256], maps.mean((2, 3)))
    torch.testing.assert_close(f[:, 256:], model.stripes(maps).detach())
    assert model_of("baseline").W_id.in_features == 256
    for variant, inputs in (("fgfl-cmimpl", 3584), ("global-classifiers", 2048)):
        paper = configure("mutual_prediction", variant, "paper", {"weights": "none"})
        with torch.device("meta"):
            model = build(paper, IDENTITIES)
        assert model.W_id.in_features == 3584 and len(model.stripes.conv) == 6
        assert {w.in_features for w in model.W.values()} == {inputs}


def test_classifiers_on_the_global_feature(batch):
    """§3.5.1's reading: W_v and W_t see the first 2 048 columns alone."""
    model = model_of("global-classifiers")
    assert {w.in_features for w in model.W.values()} == {256}
    terms = model.losses(batch, epoch=0)
    terms["specific"].backward()
    assert all(
        conv.weight.grad is None or not conv.weight.grad.any() for conv in model.stripes.conv
    )


@pytest.mark.parametrize("variant", ["baseline", "fgfl-cmimpl"])
def test_embedding_of_one_modality_does_not_depend_on_the_other(variant, batch):
    model = model_of(variant).eval()
    with torch.inference_mode():
        both = model.neck(model.features({m: getattr(batch, m) for m in MODALITIES}))
        alone = [model.embed(getattr(batch, m), m) for m in MODALITIES]
        one = model.embed(batch.infrared[2:3], "infrared")
    torch.testing.assert_close(both, torch.cat(alone))
    torch.testing.assert_close(one, alone[1][2:3])


def test_terms_are_float32_under_autocast(batch):
    model = model_of("both-terms")
    logits = []
    for head in (model.W_id, *model.W.values()):
        head.register_forward_hook(lambda *call: logits.append(call[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.losses(batch, 0)
    assert set(logits) == {torch.float32}
    assert all(term.dtype == torch.float32 for term in terms.values())

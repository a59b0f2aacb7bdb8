"""Every variant of every method trains: each parameter by its gradient, each term below what it is
for features that carry nothing."""

import pytest
import torch

from reid_core.health import LEARNED
from reid_core.methods import METHODS, build, configure
from reid_core.train import make_optimizer, train_step

EVERY = [(method, variant) for method, module in METHODS.items() for variant in module.VARIANTS]
EPOCHS, STEPS = 4, 8  # smoke's phases take one epoch each, of at most four kinds
CHANGES = {
    "crossvit_csa": {"lr": 0.001},  # of Adam
    # of the paper's game the head that leads goes on leading; here each of the two shall learn
    "fprnet": {"game": "minimax"},
    "mutual_prediction": {"clip": 1.0},  # α and β reach 70 and 100
}


@pytest.mark.parametrize("method, variant", EVERY)
def test_every_parameter_learns_and_no_term_stays_trivial(method, variant, batch):
    """On one batch, at smoke's size. A parameter counts once it had a gradient and has moved."""
    run = configure(method, variant, "smoke", {"warmup": 0, "lr": 0.02} | CHANGES.get(method, {}))
    torch.manual_seed(0)
    model = build(run, 4)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(run, model)
    pulled: set[str] = set()
    for epoch in range(EPOCHS):
        for step in range(STEPS):
            model.train()
            terms = train_step(run, model, optimizer, batch, epoch, step)
            pulled |= {
                n
                for n, p in model.named_parameters()
                if p.grad is not None and p.grad.abs().sum() > 0
            }
    after = dict(model.named_parameters())
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert before.keys() - (pulled & moved) == set()
    dead = [
        f"{name}: {terms[name].item():.3g} of {value:.3g}"
        for name, value in model.trivial.items()
        if name in ("identity", "joint") and terms[name] > LEARNED * value
    ]
    assert not dead

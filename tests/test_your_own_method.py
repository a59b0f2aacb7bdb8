"""Notebook 60's method, as a student would keep it: the cells tagged `method` are one file."""

import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch
import torch.nn.functional as F

from reid_core.methods import METHODS, build, configure
from reid_core.paths import NOTEBOOKS
from reid_core.train import make_optimizer

CELLS = nbformat.read(NOTEBOOKS / "60_your_own_method.ipynb", 4).cells
SOURCE = "\n\n".join(c.source for c in CELLS if "method" in c.metadata.get("tags", []))


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The file, imported and made known."""
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine

    monkeypatch.setitem(METHODS, "mine", mine)
    return mine


def test_has_fewer_than_60_lines() -> None:
    assert 40 < sum(bool(line.strip()) for line in SOURCE.splitlines()) < 60


@pytest.mark.parametrize("across", [True, False])
def test_contrast_is_the_equation(method: ModuleType, across: bool) -> None:
    """Eq. 1, term by term."""
    torch.manual_seed(0)
    identity = torch.tensor([0, 0, 1, 2])
    f, person = torch.randn(8, 5, dtype=torch.float64), identity.repeat(2)
    cosine, total = F.cosine_similarity(f[:, None], f, dim=2), 0.0
    for i in range(8):
        others = [j for j in range(8) if ((i < 4) != (j < 4) if across else i != j)]
        believed = torch.stack([(cosine[i, j] / 0.2).exp() for j in others]).sum()
        right = [j for j in others if person[i] == person[j]]
        total -= sum(((cosine[i, j] / 0.2).exp() / believed).log() for j in right) / len(right)
    torch.testing.assert_close(method.contrast(f, identity, 0.2, across), total / 8)


@pytest.mark.parametrize("variant", ["across", "everyone"])
def test_every_variant_learns(method: ModuleType, batch, variant: str) -> None:
    """Every weight gets a gradient, and a few steps on one batch lower the loss."""
    assert variant in method.VARIANTS and len(method.VARIANTS) == 2
    torch.manual_seed(0)
    run = configure("mine", variant, "smoke", dataset="paperdolls-tiny")
    model = build(run, identities=4)
    optimizer = make_optimizer(run, model)
    totals = []
    for _ in range(5):
        total = sum(model.losses(batch, epoch=0).values())
        optimizer.zero_grad()
        total.backward()
        learning = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    assert model.eval().embed(batch.infrared, "infrared").shape == (8, 256)

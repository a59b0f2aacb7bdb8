"""bfloat16 only where the processor has instructions for it."""

import pytest
import torch

from reid_core.config import RunConfig
from reid_core.methods import build, configure
from reid_core.precision import autocast, computes_bfloat16
from reid_core.records import provenance
from reid_core.train import make_optimizer, train_step

CPU = torch.device("cpu")


@pytest.fixture(params=[{}, {"avx512_bf16": True}, {"amx_bf16": True, "avx512_bf16": False}])
def able(request, monkeypatch) -> bool:
    """A CPU without and two with such instructions, as torch would tell of them."""
    found = {"avx2": True, "cpu_name": "a name"} | request.param
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    return bool(request.param)


def test_a_cpu_without_instructions_stays_in_float32(able):
    assert computes_bfloat16(CPU) == able
    assert provenance(CPU)["bfloat16"] == able
    a = torch.ones(2, 2)
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == (torch.bfloat16 if able else torch.float32)
    with autocast(CPU, "fp32"):
        assert (a @ a).dtype == torch.float32


def test_a_device_that_is_neither_cpu_nor_gpu(able):
    assert not computes_bfloat16(torch.device("mps"))


def test_a_training_step_follows(able, batch):
    run: RunConfig = configure("baselines", "two-stream", "smoke")
    model = build(run, 4).train()
    kinds = []
    model.backbone.register_forward_hook(lambda module, given, maps: kinds.append(maps.dtype))
    train_step(run, model, make_optimizer(run, model), batch, 0)
    assert kinds == [torch.bfloat16 if able else torch.float32]

"""A training step beside a bare ResNet's, and its parts."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from reid_core.benchmarks.timing import Work
from reid_core.config import RunConfig
from reid_core.data.augment import Augment
from reid_core.data.batches import Batch, CrossModalSampler, Pixels, training_batches
from reid_core.layers.two_stream import resnet_stages
from reid_core.methods import build
from reid_core.precision import autocast
from reid_core.train import make_optimizer, train_step

PARTS = ("backbone", "heads", "losses", "augmentation", "optimizer")


def batches_for(
    run: RunConfig, index: pd.DataFrame, pixels: Pixels, device: torch.device, ahead: bool = True
) -> Iterator[Batch]:
    """Batches of ``run`` without end, as `train.fit` draws them; without ``ahead`` a GPU too has
    each prepared when it is asked for."""
    sampler = CrossModalSampler(index, run.identities, run.images, run.seed, steps=10**9)
    augment = Augment(run.pad, run.flip, run.erase, run.grayscale, run.trivial_augment)
    return training_batches(pixels, sampler, augment, 0, device, ahead)


class Step:
    """One training step of a method, with drawing and augmenting its batch, on any call.

    Parameters
    ----------
    run, batches
        As of `batches_for`. With ``lr: 0`` weights stay as they are, at the same cost.
    people : int
        Of the classifier.
    memory_format : torch.memory_format
        `train.fit` takes channels_last.
    compiled : bool
        Whether torch.compile is applied to the backbone.
    """

    def __init__(
        self,
        run: RunConfig,
        batches: Iterator[Batch],
        people: int,
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
        compiled: bool = False,
    ):
        self.run, self.batches, self.memory_format = run, batches, memory_format
        self.model = build(run, people).to(device, memory_format=memory_format).train()
        if compiled:
            self.model.backbone.compile()
        self.optimizer = make_optimizer(run, self.model)

    def __call__(self) -> None:
        with record_function("part augmentation"):
            batch = next(self.batches)
            pair = (batch.visible, batch.infrared)
            visible, infrared = (x.contiguous(memory_format=self.memory_format) for x in pair)
            batch = replace(batch, visible=visible, infrared=infrared)
        # an epoch in which all terms train, where a method has phases
        train_step(self.run, self.model, self.optimizer, batch, self.run.epochs - 1)


def bare_step(
    run: RunConfig, backbone: str, last_stride: int, people: int, device: torch.device
) -> Work:
    """Forward, backward and update of torchvision's ResNet alone, average pooling and a classifier
    with cross-entropy behind it, on as many pictures as a step of ``run`` has, which are there
    already; the same precision, memory format and optimizer.

    ``last_stride`` 1 is what re-identification changes of it, 2 the network as it is.
    """
    network = nn.Sequential(
        *resnet_stages(backbone, "none", last_stride), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    channels = network(torch.zeros(2, 3, 64, 32)).shape[1]
    network.append(nn.Linear(channels, people)).to(device, memory_format=torch.channels_last)
    settings = {"momentum": run.momentum, "weight_decay": run.weight_decay}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, nesterov=run.nesterov, **settings)
    count = 2 * run.identities * run.images
    images = torch.randn(count, 3, run.height, run.width, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    identity = torch.arange(count, device=device) % people

    def step() -> None:
        with autocast(device, run.precision):
            loss = F.cross_entropy(network(images).float(), identity)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def parts(step: Step, rounds: int) -> pd.Series:
    """The share of each of `PARTS` in a step, by torch's profiler, the median of ``rounds`` ones:
    operators forward, and what each of them costs backward. "heads" are the model's modules behind
    the backbone, "losses" what its ``losses`` does outside of modules, mrda's masks too. On a GPU
    its time counts, not the CPU's that keeps it busy, and what another thread does there, which
    prepares the next batch, is not seen.
    """
    hooks = []
    for name, module in step.model.named_modules():
        if name:
            part = "backbone" if name.split(".")[0] == "backbone" else "heads"
            hooks += _marked(module, f"part {part}")
    spent = pd.DataFrame([_profiled(step) for _ in range(rounds)]).median()
    for hook in hooks:
        hook.remove()
    return spent / spent.sum()


def _profiled(step: Step) -> dict[str, float]:
    """Microseconds of each part in one step."""
    gpu = next(step.model.parameters()).is_cuda
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with _quiet(), profile(activities=kinds) as profiled:
        step()
    spent, owner = dict.fromkeys(PARTS, 0.0), {}
    calls = (event for event in profiled.events() if event.device_type == DeviceType.CPU)
    # forward comes first: it tells whose a node of the backward is
    for event in sorted(calls, key=lambda event: event.time_range.start):
        part = _part_of(event, owner)
        if event.sequence_nr >= 0 and not _backward(event):
            owner[event.sequence_nr] = part
        spent[part] += event.self_device_time_total if gpu else event.self_cpu_time_total
    return spent


def computing_seconds(step: Step) -> float:
    """How long operators compute in one step, added up as in `parts`: on a GPU what is missing to
    the step's own time it waits."""
    return sum(_profiled(step).values()) / 1e6


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's profiler writes a log to stderr, from C++."""
    stderr = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _marked(module: nn.Module, part: str) -> list[torch.utils.hooks.RemovableHandle]:
    open_marks: list[record_function] = []

    def enter(*_: Any) -> None:
        open_marks.append(record_function(part).__enter__())

    def leave(*_: Any) -> None:
        open_marks.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def _backward(event: Any) -> bool:
    return event.name.startswith("autograd::")


def _part_of(event: Any, owner: Mapping[int, str]) -> str:
    while event is not None:
        if event.name.startswith("part "):
            return event.name.removeprefix("part ")
        if event.name.startswith("Optimizer."):
            return "optimizer"
        if _backward(event):
            return owner.get(event.sequence_nr, "optimizer")  # else it keeps a gradient
        event = event.cpu_parent
    return "losses"

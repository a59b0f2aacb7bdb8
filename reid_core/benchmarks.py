"""Speed, measured side by side: a training step beside a bare ResNet's, the data path beside
decoding each picture, memory. Notebook 50 shows it; `naive` has what retrieval is timed against.
"""

import os
import platform
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile
from torchvision import transforms

from reid_core.config import RunConfig
from reid_core.data.augment import Augment
from reid_core.data.batches import Batch, CrossModalSampler, training_batches
from reid_core.data.images import PackedImages
from reid_core.layers.two_stream import resnet_stages
from reid_core.methods import build
from reid_core.train import make_optimizer, train_step

PARTS = ("backbone", "heads", "losses", "augmentation", "optimizer")
Work = Callable[[], Any]


def machine() -> str:
    """The processor, as far as it decides the numbers, and torch."""
    capability = torch.backends.cpu.get_cpu_capability()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = dict(line.split(": ", 1) for line in lines if ": " in line)
    facts = {name.strip(): value for name, value in facts.items()}
    name = facts.get("model name", platform.machine())
    bf16 = "AVX512-BF16" if "avx512_bf16" in facts.get("flags", "") else "no AVX512-BF16"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = f"{torch.get_num_threads()} threads"
    return f"{name}, {threads}, {capability}, {bf16}{gpu}, torch {torch.__version__}"


def compared(
    section: str, what: str, beside: str, value: float, reference: float, unit: str,
    *, ratio: float, target: str = "",
) -> dict[str, Any]:  # fmt: skip
    """A line of the table: ``what`` has ``value`` where ``beside`` has ``reference``."""
    line = {"ratio": ratio, "target": target, "section": section, "what": what, "beside": beside}
    return line | {"value": value, "reference": reference, "unit": unit}


def seconds(works: Mapping[str, Work], rounds: int) -> pd.Series:
    """Median seconds of each of ``works``. They take turns, so that whatever else the machine does
    meanwhile falls on all of them; a first round, in which memory is found and kernels are chosen,
    does not count."""
    found = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            started = _now()
            work()
            found[name].append(_now() - started)
    return pd.Series({name: float(np.median(times[1:])) for name, times in found.items()})


def _now() -> float:
    # torch.utils.benchmark would do it too, but runs everything twice before, steps of seconds also
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def batches_for(
    run: RunConfig, index: pd.DataFrame, pixels: PackedImages, device: torch.device
) -> Iterator[Batch]:
    """Batches of ``run`` without end, as `train.fit` draws them."""
    sampler = CrossModalSampler(index, run.identities, run.images, run.seed, steps=10**9)
    augment = Augment(run.pad, run.flip, run.erase, run.grayscale, run.trivial_augment)
    return training_batches(pixels, sampler, augment, 0, device)


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
        with torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bf16"):
            loss = F.cross_entropy(network(images).float(), identity)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def parts(step: Step, rounds: int) -> pd.Series:
    """The share of each of `PARTS` in a step, by torch's profiler, the median of ``rounds`` ones:
    operators forward, and what each of them costs backward. "heads" are the model's modules behind
    the backbone, "losses" what its ``losses`` does outside of modules, mrda's masks too. It counts
    what the CPU does: on a GPU that says nothing.
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
    with _quiet(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    spent, owner = dict.fromkeys(PARTS, 0.0), {}
    events = sorted(profiled.events(), key=lambda event: event.time_range.start)
    for event in events:  # forward comes first: it tells whose a node of the backward is
        part = _part_of(event, owner)
        if event.sequence_nr >= 0 and not _backward(event):
            owner[event.sequence_nr] = part
        spent[part] += event.self_cpu_time_total
    return spent


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


def pil_batch(paths: list[Path], height: int, width: int) -> torch.Tensor:
    """What most released code does for every picture of every batch: decode, resize, pad, crop,
    flip, normalise; (n, 3, height, width) float32."""
    usual = transforms.Compose(
        [
            transforms.Resize((height, width)),
            transforms.Pad(10),
            transforms.RandomCrop((height, width)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    pictures = []
    for path in paths:
        with Image.open(path) as image:
            pictures.append(usual(image.convert("RGB")))
    return torch.stack(pictures)


def empty_set(folder: Path, count: int, people: int, height: int, width: int) -> tuple:
    """Index and packed file of ``count`` pictures that show nothing, and take no room on the disk:
    reading them costs what reading pictures costs."""
    identity = np.arange(count) % people
    modality = np.where(np.arange(count) // people % 3 == 2, "infrared", "visible")
    path = folder / f"empty-{height}x{width}.npy"
    shape = (count, height, width, 3)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + int(np.prod(shape)))
    return pd.DataFrame({"identity": identity, "modality": modality}), path


def memory_of_batches(run: RunConfig, index: pd.DataFrame, packed: Path, steps: int) -> pd.Series:
    """MiB of a fresh process that has drawn ``steps`` batches from ``packed``: its ``peak`` of
    resident memory, pages of the file among it, and what of the ``peak`` it had ``before``, as
    everything was imported."""
    work = partial(_draw, run, index, packed, steps)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pd.Series(pool.submit(work).result(), index=["before", "peak"])


def _draw(run: RunConfig, index: pd.DataFrame, packed: Path, steps: int) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batches = batches_for(run, index, PackedImages(packed), torch.device("cpu"))
    for _ in range(steps):
        next(batches)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return before / 1024, peak / 1024  # Linux counts KiB

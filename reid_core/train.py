"""``fit(run)``: trains a run's model, exactly resumable, knowing no method."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import nn

from reid_core import checkpoint, distributed, health, records, superres
from reid_core.config import RunConfig
from reid_core.data.augment import Augment
from reid_core.data.batches import Batch, CrossModalSampler, training_batches
from reid_core.data.datasets import obtain, read
from reid_core.data.images import PackedImages, digest, fingerprint, pack
from reid_core.data.index import DatasetError
from reid_core.errors import ReidError
from reid_core.layers.pooling import at_least_float32
from reid_core.methods import build, errors_of
from reid_core.paths import shown, write_atomically
from reid_core.precision import autocast, computes_bfloat16, device_named
from reid_core.progress import Progress
from reid_core.shared_start import SharedStart


class TrainingStopped(ReidError, RuntimeError):
    """A loss or a weight is not finite; the last good checkpoint is kept."""


@dataclass(frozen=True)
class Trained:
    """A trained run with what measuring it needs."""

    run: RunConfig
    model: nn.Module  # in evaluation mode
    history: pd.DataFrame  # a row an epoch: epoch, last lr, mean of each term, total, spread of the
    # features, visits (batches in which a person was until then), seconds of training, and what
    # ``fit``'s ``after_epoch`` measured
    index: pd.DataFrame
    pixels: PackedImages
    device: torch.device
    root: Path  # of the dataset
    folder: Path  # of the run


def learning_rate(run: RunConfig, epoch: float) -> float:
    """Learning rate ``epoch`` epochs after the start: linear warm-up, then ``run.schedule``."""
    if epoch < run.warmup:
        return run.lr * epoch / run.warmup
    if run.schedule == "cosine":
        return (
            run.lr * (1 + math.cos(math.pi * (epoch - run.warmup) / (run.epochs - run.warmup))) / 2
        )
    return run.lr * run.gamma ** sum(epoch >= milestone for milestone in run.milestones)


def make_optimizer(run: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """``model.backbone`` learns at ``backbone_lr`` times the rate of everything after it."""
    backbone = list(model.backbone.parameters())
    inside = set(map(id, backbone))
    head = [p for p in model.parameters() if id(p) not in inside]
    parameters = [
        {"params": backbone, "factor": run.backbone_lr},
        {"params": head, "factor": 1.0},
    ]
    common = {"lr": run.lr, "weight_decay": run.weight_decay}
    if run.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=run.momentum, nesterov=run.nesterov, **common)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[run.optimizer]
    return kind(parameters, betas=(run.momentum, 0.999), **common)


def fit(
    run: RunConfig,
    data: Path | None = None,
    device: str = "auto",
    after_epoch: Callable[[Trained], dict[str, float]] | None = None,
) -> Trained:
    """Trains ``run`` to its last epoch and returns it; what is already trained is not done again.

    A checkpoint is written after every epoch, and everything random in an epoch follows from
    (seed, epoch): a run that was killed and is started again ends with the same weights, bit for
    bit on one CPU, as one that never was.

    Epochs that do not depend on what makes its variant are taken from a sibling that has trained
    them with the same code; see ``shared_start``.

    Where a launcher has started several processes (``torchrun --nproc-per-node 2``), they train
    one model together, each on a GPU or core of its own, and end with the weights that one process
    would have reached, up to rounding; any number may resume what another one began.

    Parameters
    ----------
    run : RunConfig
    data : Path, optional
        The dataset's folder; by default ``data/<dataset>``, where PaperDolls are drawn if missing.
    device : str
        "auto" (CUDA where there is one), or a torch device.
    after_epoch : callable, optional
        What it measures on the run so far joins the epoch's row of the history, and its time does
        not count as the epoch's; see ``retrieval.features.accuracy``. It may switch the model to
        evaluation and draw at random, but not change it: then the run ends as it would without,
        and so this is no setting of the run. Epochs trained without it have no value.

    Raises
    ------
    DatasetError
        The dataset is missing, defective, or has nothing to train or to measure on.
    RunError
        The run's folder holds other settings, a damaged checkpoint, or is in use.
    TrainingStopped
        A loss term or a weight is NaN or infinite.
    ConfigError
        The model cannot be built, for want of its weights file for example, or not for pictures of
        this size; or there is no such device here.
    """
    place = distributed.join(device_named(device))
    with distributed.first_alone():
        root = obtain(run.dataset, data)
    index = read(run.dataset, root, run.trial)
    if not (index["split"] == run.evaluate_on).any():
        raise DatasetError(f"{shown(root)}: {run.dataset} has no split '{run.evaluate_on}'.")
    with _alone(records.folder_of(run)):
        with distributed.first_alone():
            content = fingerprint(index, root)
            folder = records.open_folder(run, content, place)
            start = SharedStart.of(run, folder, content, place)
            begun = start.find()
            pixels = pack(index, root, run.height, run.width)
        splits = ["train", "val"] if run.evaluate_on == "test" else ["train"]
        training = index[index["split"].isin(splits)]
        sampler = CrossModalSampler(training, run.identities, run.images, run.seed, run.steps)
        for handling, people in sampler.report.groupby("handling"):
            print(f"sampler: {len(people)} identities incomplete, {handling}", flush=True)
        torch.manual_seed(run.seed)
        model = build(run, len(sampler.classes)).to(place, memory_format=torch.channels_last)
        optimizer = make_optimizer(run, model)
        owner = {"config": run.to_dict(), "data": digest(index, root)}
        if begun is None:
            history = checkpoint.resume(folder / "checkpoint.pt", model, optimizer, place, owner)
        else:
            history = checkpoint.resume(begun, model, optimizer, place)
        distributed.require_same(data=content, epochs=len(history))
        augment = Augment(run.pad, run.flip, run.erase, run.grayscale, run.trivial_augment)
        progress = Progress(run.epochs, sampler.steps, len(history))
        if len(history) < run.epochs:  # what was measured on lost weights is not this run's
            (folder / "metrics.json").unlink(missing_ok=True)
            if run.precision == "bf16" and not computes_bfloat16(place):
                print("precision: float32, no instructions for bfloat16 here", flush=True)
        seen = pixels  # in training: what is measured on stays as it is
        if run.superres and len(history) < run.epochs:
            seen = superres.replace_visible(run, index, training, root, pixels, place)

        def so_far() -> Trained:
            frame = pd.DataFrame(history)
            return Trained(run, model.eval(), frame, index, pixels, place, root, folder)

        whole = not history  # of what another process trained, this one cannot tell with what code
        for epoch in range(len(history), run.epochs):
            batches = training_batches(seen, sampler, augment, epoch, place)
            started = time.perf_counter()
            with errors_of(run), distributed.spread(model):  # a batch tells a layer its sizes
                row = _train_epoch(run, model, optimizer, batches, epoch, sampler.steps, progress)
            _require_finite(model, epoch)
            visits = (epoch + 1) * sampler.steps * run.identities / len(sampler.classes)
            seconds = round(time.perf_counter() - started, 2)
            history.append(row | {"visits": round(visits, 2), "seconds": seconds})
            if after_epoch is not None:
                history[-1] |= after_epoch(so_far())
            if distributed.rank() == 0:
                checkpoint.save(folder, model, optimizer, history, owner)
            if whole:
                start.keep(len(history))
            progress.epoch_done(history[-1])
            if epoch + 1 == run.epochs:
                for sentence in health.report(pd.DataFrame(history), model.trivial)["ill"]:
                    print(f"health: {sentence}", flush=True)
        trained = so_far()
        if distributed.rank() == 0:
            write_atomically(folder / "history.csv", trained.history.to_csv(index=False))
    return trained


def _train_epoch(
    run: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    epoch: int,
    steps: int,
    progress: Progress,
) -> dict[str, Any]:
    """One epoch; returns its row of the history, with the mean of every loss term."""
    torch.manual_seed(run.seed * 100_003 + epoch + 1)  # dropout, and whatever a method draws
    model.train()
    sums: dict[str, torch.Tensor] = {}  # on the device: reading one would wait for it
    for step, batch in enumerate(batches):
        # at the middle of the step: the first one learns, and none lies on a milestone
        rate = learning_rate(run, epoch + (step + 0.5) / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        terms = train_step(run, model, optimizer, batch, epoch, step)
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach().double()
        progress.step_done(epoch, step, sums["total"] / (step + 1))
    means = {name: (value / steps).item() for name, value in sums.items()}
    spread = health.spread(model, batch, run.precision)
    return {"epoch": epoch + 1, "lr": rate, **means, "spread": spread}


def train_step(
    run: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    epoch: int,
    step: int = 0,
) -> dict[str, torch.Tensor]:
    """Forward, backward and update at the optimizer's rates; returns the loss terms and their
    ``total``.

    Raises
    ------
    TrainingStopped
        A term is NaN or infinite; names ``epoch`` and ``step``, counted from 1.
    """
    with autocast(batch.identity.device, run.precision):
        terms = model.losses(batch, epoch)
    total = torch.stack([at_least_float32(term) for term in terms.values()]).sum()
    if not torch.isfinite(total):
        _stop(terms, epoch, step)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    distributed.average_gradients(model)
    if run.clip:
        nn.utils.clip_grad_norm_(model.parameters(), run.clip)
    optimizer.step()
    return terms | {"total": total}


def _stop(terms: dict[str, torch.Tensor], epoch: int, step: int) -> NoReturn:
    bad = [f"{name} = {v.item()}" for name, v in terms.items() if not torch.isfinite(v)]
    raise TrainingStopped(
        f"loss {', '.join(bad) or 'total'} in epoch {epoch + 1}, step {step + 1}. {_kept(epoch)} "
        "Usual causes: lr too high, or too short a warm-up; precision='fp32' tells whether "
        "bfloat16 has a part in it."
    )


def _kept(epochs: int) -> str:
    return f"The checkpoint after epoch {epochs} is kept." if epochs else "Nothing was saved yet."


def _require_finite(model: nn.Module, epoch: int) -> None:
    """No loss shows what the epoch's last step has ruined."""
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise TrainingStopped(f"{name} is not finite after epoch {epoch + 1}. {_kept(epoch)}")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Rank 0 locks the folder; the others write nothing, and print nothing either."""
    if distributed.rank() > 0:
        with redirect_stdout(None):
            yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise records.RunError(
            f"{shown(folder)}: another process is training this run. Wait for it, or stop it."
        ) from None
    except OSError as error:
        raise records.RunError(
            f"{shown(folder)}: cannot be written to or locked ({error.strerror or error}). Name a "
            "folder for results that can, on this machine's own disk, with REID_RESULTS."
        ) from None
    with held:
        yield

"""One model, several processes: on several GPUs, or on a CPU's cores.

A launcher (torchrun, or one that sets the same variables) starts the same program once for every
*rank*. All ranks draw the same batch, which follows from the seed, and compute the same losses of
all of it; only what is nearly all of the work is shared out: each rank takes its own rows of a
batch through the backbone, and all of them get all maps. So triplets and centres are those of the
whole P × K batch whatever the method is, and no method knows that it is trained by several.

Gradients need no case by case either. Backward, `_Join` adds up what every rank's loss asks of a
row, so a rank's gradients are its part of those of Σ_r L_r. All L_r are the same L: of each
parameter, in front of a join, behind it or between two, the mean over the ranks is ∂L/∂θ.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map_only

from reid_core.errors import ReidError


class RankError(ReidError, RuntimeError):
    """Processes that cannot train one model together."""


def join(device: torch.device) -> torch.device:
    """Joins the other ranks, if a launcher has started this process as one of several, and returns
    the device of its own: on a machine with GPUs each process takes another one.

    Raises
    ------
    RankError
        There are fewer GPUs here than processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return device
    gpu = device.type == "cuda"
    if gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise RankError(
                f"process {device.index + 1} on this machine finds {torch.cuda.device_count()} "
                "GPUs, expected one for each process: start fewer"
            )
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if gpu else "gloo", device_id=device if gpu else None)
    return device


def leave() -> None:
    """Ends what `join` began; all ranks call it, and go on alone."""
    if dist.is_initialized():
        dist.destroy_process_group()


def count() -> int:
    """The number of ranks, 1 where this process is alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number; rank 0 alone writes files and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def first_alone() -> Iterator[None]:
    """The others enter the block when rank 0 has left it, and find what it has made."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and count() > 1:
        dist.barrier()


def require_same(**found: Any) -> None:
    """Ranks that start from different states would mix them without a word.

    Raises
    ------
    RankError
        What this rank has ``found`` differs from what another has.
    """
    if count() == 1:
        return
    every: list[Any] = [None] * count()
    dist.all_gather_object(every, found)
    if any(other != found for other in every):
        raise RankError(
            f"found, rank by rank, {every}; expected the same everywhere. Processes on several "
            "machines need one folder of data and one of results: see REID_DATA and REID_RESULTS."
        )


@contextmanager
def spread(model: nn.Module) -> Iterator[None]:
    """Within the block the ranks share the rows of every batch that ``model`` gives to its
    backbone, or to one of the parts that its ``per_picture`` names, as a whole or to any module in
    it. What such a module gets and returns is the same on all ranks, and what one process would
    get and return, up to rounding.

    Rows are the first dimension. Such a module treats each row for itself, but for batch
    normalisation, which uses the statistics of the ranks together; of several inputs, say the two
    modalities', it returns the rows one after the other, or one row for a row of each.
    """
    if count() == 1:
        yield
        return
    parts = [getattr(model, name) for name in ("backbone", *getattr(model, "per_picture", ()))]
    modules = set(chain.from_iterable(part.modules() for part in parts if part is not None))
    sharing = _Sharing()
    for module in modules:
        norm = isinstance(module, _BatchNorm)
        module.forward = partial(sharing, partial(_normalise, module) if norm else module.forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward  # the class has its own


def average_gradients(model: nn.Module) -> None:
    """Gives every rank the mean of the ranks' gradients, see above."""
    if count() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    whole = torch.cat([g.reshape(-1) for g in gradients])  # one message, not hundreds
    dist.all_reduce(whole)
    parts = (whole / count()).split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


class _Sharing:
    """Calls ``forward`` with this rank's rows and joins what the ranks return; what is called
    inside works on these rows already."""

    def __init__(self):
        self.inside, self.calls = False, 0

    def __call__(self, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        if self.inside:
            return forward(*inputs, **named)
        rows = [len(x) for x in tree_leaves((inputs, named)) if isinstance(x, torch.Tensor)]
        if min(rows) < count():
            raise RankError(
                f"{min(rows)} pictures cannot be shared by {count()} processes: start fewer, or "
                "raise identities or images."
            )
        own, named = tree_map_only(torch.Tensor, _own, (inputs, named))
        self.inside = True
        try:
            with self._own_numbers():
                out = forward(*own, **named)
        finally:
            self.inside = False
        return tree_map_only(torch.Tensor, partial(_join, rows=rows), out)

    @contextmanager
    def _own_numbers(self) -> Iterator[None]:
        """What is drawn inside (for dropout) differs from rank to rank; what is drawn afterwards is
        the same on all ranks, as if nothing had been drawn inside."""
        self.calls += 1
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(hash((torch.initial_seed(), self.calls, rank())))
            yield


def _own(x: torch.Tensor) -> torch.Tensor:
    return x.tensor_split(count())[rank()]


def _join(own: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """All ranks' rows of what was made of inputs of ``rows`` rows: one of each row, the inputs' one
    after the other, or, of several inputs together, as many as each of them has."""
    shares = [len(_own(torch.empty(n))) for n in rows]
    if len(own) == shares[0]:
        rows, shares = rows[:1], shares[:1]
    return torch.cat([_Join.apply(x, n) for x, n in zip(own.split(shares), rows, strict=True)])


class _Join(torch.autograd.Function):
    """The ranks' rows (n_r, …) one after the other, (n, …). Backward: the sum over the ranks of
    what they ask of this rank's rows."""

    @staticmethod
    def forward(ctx, own: torch.Tensor, rows: int) -> torch.Tensor:
        whole = own.new_zeros((rows, *own.shape[1:]))
        _own(whole).copy_(own)
        dist.all_reduce(whole)  # of numbers and zeros: exact, and the ranks' shares may differ
        return whole

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        whole = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return _own(whole), None


def _normalise(norm: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """``norm(x)`` with the statistics of all ranks' ``x`` (B_r, C, …). torch's own SyncBatchNorm
    works on GPUs only."""
    if not norm.training:
        return type(norm).forward(norm, x)
    with torch.no_grad():
        mean, var, n = _statistics(x)
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * n / (n - 1), norm.momentum)
    return _Normalise.apply(x, norm.weight, norm.bias, mean, var, n, norm.eps)


def _statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (C,) and variance (C,) of all ranks' ``x``, float32, and the number of values of each
    channel: from the ranks' own (Chan et al., 1979), which cancels nothing as Σx² would."""
    x, dims, shape = _per_channel(x)
    own = x.mean(dims)
    spread = (x - own.view(shape)).square().sum(dims)
    n = torch.full_like(own, x.numel() / x.shape[1])
    counts, means, spreads = _Join.apply(torch.stack([n, own, spread])[None], count()).unbind(1)
    n = counts.sum(0)
    mean = (counts * means).sum(0) / n
    return mean, (spreads + counts * (means - mean).square()).sum(0) / n, n


def _per_channel(x: torch.Tensor) -> tuple[torch.Tensor, list[int], list[int]]:
    """``x`` (B, C, …) in float32, its dimensions but C, and C's shape beside it."""
    return x.float(), [d for d in range(x.ndim) if d != 1], [-1] + [1] * (x.ndim - 2)


class _Normalise(torch.autograd.Function):
    """``(x − mean) / √(var + eps) · weight + bias``. Backward: ``mean`` and ``var`` are those of
    the ``n`` values that all ranks' ``x`` have in a channel, and so depend on ``x``."""

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, n, eps):
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), n)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, scale, n = ctx.saved_tensors
        kind = x.dtype
        x, dims, shape = _per_channel(x)
        x = (x - mean.view(shape)) * scale.view(shape)
        gradient = gradient.float()
        own = torch.stack([gradient.sum(dims), (gradient * x).sum(dims)])
        every = own.clone()
        dist.all_reduce(every)
        of_mean, of_scale = (each.view(shape) for each in every / n)
        of_x = (weight * scale).view(shape) * (gradient - of_mean - x * of_scale)
        return of_x.to(kind), own[1], own[0], None, None, None, None

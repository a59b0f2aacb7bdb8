"""Files of weights: written whole or not at all, executed never, with every bit checked."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reid_core import records
from reid_core.paths import shown, write_atomically


def write(path: Path, content: dict[str, Any]) -> None:
    """Replaces what ``path`` had, whole or not at all. The caller holds a lock for it.

    Raises
    ------
    OSError
        The disk refuses it; names ``path``.
    """
    buffer = io.BytesIO()  # of a full disk torch.save would say "enforce fail at inline_container"
    torch.save(content, buffer)
    write_atomically(path, buffer.getbuffer(), locked=True)


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """What `write` wrote; of any other bytes, an error of any kind: see `refused`."""
    with zipfile.ZipFile(path) as archive:
        if spoiled := archive.testzip():  # torch.load looks at no checksum
            raise ValueError(f"checksum of {spoiled}")
    return torch.load(path, map_location=device, weights_only=True)


@contextmanager
def refused(path: Path, advice: str) -> Iterator[None]:
    """Whatever goes wrong while ``path`` is read and its content taken is a RunError that names it,
    the reason and what to do."""
    try:
        yield
    except (records.RunError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of damaged bytes torch.load may make any
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise records.RunError(
            f"{shown(path)}: damaged, or of another model ({reason} …). {advice}"
        ) from None


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
    owner: dict[str, Any],
) -> None:
    """Keeps in a run's ``folder`` what its next epoch needs. ``owner`` says whose it is: files get
    copied, and two models may have one shape."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
    write(folder / "checkpoint.pt", state | {"owner": owner})


def resume(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    owner: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Loads the checkpoint, if there is one, and returns its history. It must be ``owner``'s, where
    its name does not say already what it holds.

    Raises
    ------
    RunError
        It is damaged, or another run's.
    """
    if not path.exists():
        return []
    with refused(path, "Delete the file to train from the start."):
        state = read(path, device)
        if owner and "owner" in state:  # older checkpoints have none
            records.require_same(state["owner"], owner, path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        epochs = [row["epoch"] for row in state["history"]]
        if not epochs or epochs != list(range(1, len(epochs) + 1)):
            raise ValueError(f"history of the epochs {epochs}")
        return state["history"]

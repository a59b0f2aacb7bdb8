"""Progress of a training: readable live in JupyterLab and afterwards in a log."""

import sys
import time
from typing import Any, SupportsFloat

_EVERY = 0.5  # seconds between two updates of the display


class Progress:
    """One printed line for each epoch, and in a notebook one display that is updated between them.

    ``done`` epochs of ``epochs``, each of ``steps`` steps, were trained by an earlier process.
    """

    def __init__(self, epochs: int, steps: int, done: int = 0):
        self.epochs, self.steps, self.done = epochs, steps, done
        self.begun = self.shown = time.monotonic()
        self.handle = None
        if done == epochs:
            print(f"all {epochs} epochs were trained before", flush=True)
            return
        if done:
            print(f"resuming after epoch {done} of {epochs}", flush=True)
        if _in_notebook():
            from IPython.display import display

            self.handle = display({"text/plain": "…"}, raw=True, display_id=True)

    def _update(self, text: str) -> None:
        if self.handle is not None:
            self.handle.update({"text/plain": text}, raw=True)

    def step_done(self, epoch: int, step: int, loss: SupportsFloat) -> None:
        """``loss``, the epoch's mean so far, is read only when it is shown: on a GPU reading
        waits."""
        now = time.monotonic()
        if self.handle is None or now - self.shown < _EVERY:
            return
        self.shown = now
        share = epoch - self.done + (step + 1) / self.steps
        left = (now - self.begun) / share * (self.epochs - self.done - share)
        self._update(
            f"epoch {epoch + 1}/{self.epochs}, step {step + 1}/{self.steps}, "
            f"mean loss {float(loss):.3f}, about {left:.0f} s left"
        )

    def epoch_done(self, row: dict[str, Any]) -> None:
        """``row`` is the epoch's in the history."""
        hidden = ("epoch", "lr", "visits", "seconds")
        terms = "  ".join(f"{k} {v:.3f}" for k, v in row.items() if k not in hidden)
        print(
            f"epoch {row['epoch']:>3}/{self.epochs}  lr {row['lr']:.3g}  {terms}  "
            f"{row['seconds']:.1f} s",
            flush=True,
        )
        if row["epoch"] == self.epochs:
            self._update(f"{self.epochs} epochs done")


def _in_notebook() -> bool:
    """Whether a kernel runs this process; that ipykernel is imported does not tell."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")

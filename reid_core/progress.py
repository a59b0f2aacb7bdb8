"""Progress of a training: readable live in JupyterLab and afterwards in a log."""

import sys
import time
from typing import Any


class Progress:
    """One line for each epoch, and in a notebook one display that is updated between them."""

    def __init__(self, epochs: int, steps: int, history: list[dict[str, Any]]):
        self.epochs, self.steps = epochs, steps
        self.done = len(history)
        self.begun = self.shown = time.monotonic()
        self.handle = None
        if history:
            print(f"resuming after epoch {self.done} of {epochs}", flush=True)
        if "ipykernel" in sys.modules:
            from IPython.display import display

            self.handle = display({"text/plain": "…"}, raw=True, display_id=True)

    def _update(self, text: str) -> None:
        if self.handle is not None:
            self.handle.update({"text/plain": text}, raw=True)

    def step_done(self, epoch: int, step: int, loss: float) -> None:
        now = time.monotonic()
        if self.handle is None or now - self.shown < 0.5:
            return
        self.shown = now
        share = epoch - self.done + (step + 1) / self.steps
        left = (now - self.begun) / share * (self.epochs - self.done - share)
        self._update(
            f"epoch {epoch + 1}/{self.epochs}, step {step + 1}/{self.steps}, "
            f"mean loss {loss:.3f}, about {left:.0f} s left"
        )

    def epoch_done(self, row: dict[str, Any]) -> None:
        hidden = ("epoch", "lr", "seconds")
        terms = "  ".join(f"{k} {v:.3f}" for k, v in row.items() if k not in hidden)
        print(
            f"epoch {row['epoch']:>3}/{self.epochs}  lr {row['lr']:.4f}  {terms}  "
            f"{row['seconds']:.1f} s",
            flush=True,
        )
        if row["epoch"] == self.epochs:
            self._update(f"{self.epochs} epochs done")

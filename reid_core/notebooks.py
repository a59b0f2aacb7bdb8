"""Notebooks run by papermill, each checked before it starts and kept where its results are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reid_core.config import read_profile
from reid_core.errors import ReidError
from reid_core.paths import NOTEBOOKS, ROOT, shown


class NotebookError(ReidError, RuntimeError):
    """A notebook does not take a parameter, or a cell of it failed."""


def notebook_of(method: str) -> Path:
    """The notebook that teaches and trains ``method``: ``notebooks/<number>_<method>.ipynb``.
    Raises NotebookError where there is none yet."""
    pattern = f"[0-9][0-9]_{method}.ipynb"
    if not (found := next(NOTEBOOKS.glob(pattern), None)):
        raise NotebookError(f"{shown(NOTEBOOKS / pattern)}: found none, {method} needs one.")
    return found


def check(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """papermill only warns about a parameter that a notebook does not have.

    Raises
    ------
    NotebookError
        The notebook lacks one; names it and those that there are.
    """
    from papermill import inspect_notebook  # takes a second, which the other commands need not

    known = inspect_notebook(str(notebook))
    if unknown := sorted(parameters.keys() - known.keys()):
        raise NotebookError(
            f"{shown(notebook)}: has no parameter {', '.join(unknown)}; its tagged cell has "
            f"{', '.join(known)}."
        )


def profile_parameters(notebook: Path, profile: str) -> dict[str, Any]:
    """What a profile's file has for ``notebook``, as ``papermill -f`` gives it. Raises ConfigError
    where there is no such profile."""
    from papermill import inspect_notebook

    known = inspect_notebook(str(notebook))
    return {name: value for name, value in read_profile(profile).items() if name in known}


def execute(notebook: Path, executed: Path, parameters: Mapping[str, Any]) -> None:
    """Runs ``notebook`` with ``parameters`` in a kernel of its own and leaves it, with its outputs
    so far, at ``executed``, also when a cell fails: then the error stands below that cell.

    Raises
    ------
    NotebookError
        A cell failed, or the kernel died; names the error and ``executed``.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    executed.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook), str(executed), dict(parameters), cwd=str(ROOT),
            kernel_name="python3", progress_bar=False,
            extra_arguments=["--log-level=ERROR"],  # else every kernel warns of TCP on stderr
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        what = " ".join(f"{error.ename}: {error.evalue}".split())
        raise NotebookError(f"{what} — see {shown(executed)}") from None
    except DeadKernelError:
        raise NotebookError(f"the kernel died, of memory perhaps — see {shown(executed)}") from None

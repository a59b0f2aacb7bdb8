"""Every notebook runs from top to bottom under papermill, and keeps the house's form."""

import statistics
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.inspection import inspect_notebook

from reid_core.notebooks import profile_parameters
from reid_core.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# what a smoke run changes beside its profile, to spend no time on more of the same
BASELINES = ROOT / "notebooks" / "03_baselines.ipynb"
RUNS = [(n, {}) for n in NOTEBOOKS if n != BASELINES]
RUNS.append((BASELINES, {"variants": "one-stream two-stream"}))
RUNS.append((BASELINES, {"variants": "two-stream", "dataset": "paperdolls-tiny-regdb"}))


def _code(notebook: Path) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]


@pytest.mark.parametrize(("notebook", "changes"), RUNS, ids=lambda x: getattr(x, "stem", ""))
def test_runs_on_the_smoke_profile(notebook: Path, changes: dict, tmp_path: Path) -> None:
    """Also from another working directory: nothing may depend on where it is started."""
    parameters = profile_parameters(notebook, "smoke") | changes
    executed = papermill.execute_notebook(
        str(notebook), str(tmp_path / notebook.name), parameters, cwd=str(tmp_path),
        kernel_name="python3", progress_bar=False,
    )  # fmt: skip
    outputs = [o for c in executed.cells if c.cell_type == "code" for o in c.outputs]
    assert outputs
    complaints = [o.text for o in outputs if o.get("name") == "stderr"]
    assert not complaints, "a saved notebook shows its reader what went to stderr"
    figures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert figures, "a notebook without a figure"
    assert all(o.metadata["image/png"].get("alt") for o in figures), "a figure without its words"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_has_the_house_form(notebook: Path) -> None:
    cells = _code(notebook)
    assert not [c for c in cells if c.outputs or c.execution_count], "strip the outputs"
    lengths = [len(c.source.splitlines()) for c in cells]
    assert max(lengths) <= 15
    assert statistics.median(lengths) <= 6
    assert all(c.source.count("def ") <= 2 for c in cells)
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert nbformat.read(notebook, 4).metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_parameter_is_typed_and_explained(notebook: Path) -> None:
    parameters = inspect_notebook(str(notebook)).values()
    assert 1 <= len(parameters) <= 10
    for parameter in parameters:
        assert parameter["inferred_type_name"] != "None", parameter
        assert parameter["help"], parameter

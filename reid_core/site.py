"""The README and the executed notebooks as static pages, which open from a disk without network.

papermill executes what is missing, Sphinx with MyST-NB makes the pages. Their sources are laid out
as in the repository, so that a relative link means the same in both.
"""

import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path

import nbformat
from sphinx.cmd.build import build_main

from reid_core.config import ConfigError
from reid_core.errors import ReidError
from reid_core.notebooks import execute, profile_parameters
from reid_core.paths import NOTEBOOKS, REPORTED, ROOT, results_folder, runs_folder, shown

SETTINGS = NOTEBOOKS / "site"  # Sphinx's conf.py and a style sheet
CHAPTERS = {"Learn": "0", "Methods": "1", "Results": "24", "Figures": "3", "Further": "56789"}
_READS_RUNS = re.compile(r"2\d_|40_")  # show other notebooks' runs, and are old with each new one


class SiteError(ReidError, RuntimeError):
    """Sphinx could not make the pages."""


def chosen(numbers: Collection[str] = ()) -> list[Path]:
    """The notebooks with these numbers, or all of them, in order.

    Raises
    ------
    ConfigError
        No notebook has such a number; lists those that there are.
    """
    known = {path.stem[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if unknown := sorted(set(numbers) - known.keys()):
        raise ConfigError(
            f"notebook: found {', '.join(unknown)}, expected numbers of: {', '.join(known)}."
        )
    return [path for number, path in known.items() if not numbers or number in numbers]


def executed_copy(notebook: Path, profile: str) -> Path:
    """Where `execute_missing`, ``make demo`` and the README's commands leave it."""
    return runs_folder() / profile / notebook.name


def is_current(notebook: Path, executed: Path) -> bool:
    """Whether ``executed`` is newer than ``notebook`` and has run to its end without an error. Of a
    notebook that shows other notebooks' runs it never is."""
    if not executed.exists() or executed.stat().st_mtime < notebook.stat().st_mtime:
        return False
    page = None if _READS_RUNS.match(notebook.name) else _read(executed)
    return page is not None and _ended_well(page)


def _read(executed: Path) -> nbformat.NotebookNode | None:
    """The executed notebook; None where papermill has not written it, or not whole."""
    try:
        return nbformat.read(executed, 4)
    except (FileNotFoundError, ValueError):
        return None


def _ended_well(notebook: nbformat.NotebookNode) -> bool:
    code = [c for c in notebook.cells if c.cell_type == "code" and c.source]
    errors = [o for c in code for o in c.outputs if o.output_type == "error"]
    return not errors and all(c.execution_count for c in code)


def execute_missing(notebooks: Iterable[Path], profile: str) -> dict[str, str]:
    """Executes those of ``notebooks`` that have no current copy, one after another, with a line
    for each. Returns the failed ones' names with what went wrong; a failure stops no other."""
    failed: dict[str, str] = {}
    for notebook in notebooks:
        executed = executed_copy(notebook, profile)
        if is_current(notebook, executed):
            print(f"{notebook.stem}: executed before", flush=True)
            continue
        print(f"{notebook.stem}: …", end=" ", flush=True)
        started = time.monotonic()
        try:
            execute(notebook, executed, profile_parameters(notebook, profile))
        except Exception as error:  # of one notebook: the others go on
            failed[notebook.stem] = str(error)
        state = "failed after" if notebook.stem in failed else "executed in"
        print(f"{state} {time.monotonic() - started:.0f} s", flush=True)
    return failed


def build(profile: str) -> Path:
    """Makes the pages anew from what has been executed, and returns the front page. A notebook that
    has not been appears without outputs, and says so.

    Raises
    ------
    SiteError
        Sphinx failed; the site that was there is left alone.
    """
    site = results_folder() / "site"
    with tempfile.TemporaryDirectory() as folder:
        source, pages = Path(folder, "source"), Path(folder, "pages")
        _lay_out(source, profile)
        if build_main(["-q", "-c", str(SETTINGS), str(source), str(pages)]):
            raise SiteError(f"Sphinx failed, see above; {shown(site)} is as it was.")
        shutil.rmtree(pages / ".doctrees")
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(pages, site)
    return site / "index.html"


def _lay_out(source: Path, profile: str) -> None:
    notebooks = chosen()
    for folder in ("notebooks", "data"):
        (source / folder).mkdir(parents=True)
    for notebook in notebooks:
        page = _page(notebook, executed_copy(notebook, profile), profile)
        nbformat.write(page, source / "notebooks" / notebook.name)
    for page in _texts():
        text = page.read_text(encoding="utf-8").replace("](README.md", "](index.md")
        (source / page.relative_to(ROOT)).write_text(text, encoding="utf-8")
    figures = REPORTED / "figures"
    shutil.copytree(figures, source / figures.relative_to(ROOT))
    for linked in (ROOT / "LICENSE", REPORTED / "summary.csv"):
        shutil.copy(linked, source / linked.relative_to(ROOT))
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    (source / "index.md").write_text(front + _navigation(notebooks), encoding="utf-8")


def _texts() -> list[Path]:
    """The pages that are no notebooks, beside the front page."""
    return [ROOT / "README.zh.md", *sorted(NOTEBOOKS.glob("*.md")), ROOT / "data" / "README.md"]


def _page(notebook: Path, executed: Path, profile: str) -> nbformat.NotebookNode:
    """The executed notebook, or else the plain one, that says below its title which it is."""
    if page := _read(executed):
        run = page.metadata.get("papermill", {})
        by = run.get("parameters", {}).get("profile", profile)
        when = datetime.fromisoformat(run["start_time"]) if "start_time" in run else None
        note = f"Executed with profile `{by}`" + (f" on {when:%-d %B %Y}." if when else ".")
        if not _ended_well(page):
            note += " **It did not run to its end.**"
        if executed.stat().st_mtime < notebook.stat().st_mtime:
            note += " The notebook has been edited since."
    else:
        page = nbformat.read(notebook, 4)
        note = f"Not executed with profile `{profile}`: the code, without what it shows."
    page.cells.insert(1, nbformat.v4.new_markdown_cell(f"```{{note}}\n{note}\n```"))
    return page


def _navigation(notebooks: Iterable[Path]) -> str:
    """Sphinx's tables of contents, a chapter each: ``21 · mrda results`` for its notebook."""
    links = {
        n: f"{n.stem[:2]} · {n.stem[3:].replace('_', ' ')} <notebooks/{n.stem}>" for n in notebooks
    }
    chapters = {
        caption: [link for n, link in links.items() if n.name[0] in digits]
        for caption, digits in CHAPTERS.items()
    }
    texts = [page.relative_to(ROOT).with_suffix("").as_posix() for page in _texts()]
    chapters["Beside them"] = texts  # each by its own title
    return "".join(
        "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *lines, "```", ""])
        for caption, lines in chapters.items()
        if lines
    )

"""What the pages beside the code say: links, commands, names and exercises hold."""

import re
from pathlib import Path

import nbformat
import pytest

from reid_core.paths import NOTEBOOKS, ROOT

PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted(NOTEBOOKS.glob("*.md"))]
PAGES += sorted(NOTEBOOKS.glob("*.ipynb"))
EXERCISED = sorted(NOTEBOOKS.glob("[01][0-9]_*.ipynb"))


def _text(page: Path) -> str:
    if page.suffix == ".md":
        return page.read_text(encoding="utf-8")
    cells = nbformat.read(page, 4).cells
    return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def _commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", _text(page), re.M | re.S)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", _text(page), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    own = [t.split("#")[0] for t in targets if not t.startswith(("http", "mailto:", "#"))]
    assert not [t for t in own if not (page.parent / t).exists()]


def test_the_chinese_readme_has_the_commands_of_the_english_one() -> None:
    commands = _commands(ROOT / "README.zh.md")
    assert len(commands) > 10
    assert not set(commands) - set(_commands(ROOT / "README.md"))


@pytest.mark.parametrize("notebook", EXERCISED, ids=lambda p: p.stem)
def test_every_exercise_has_a_solution(notebook: Path) -> None:
    exercises = _text(notebook).split("**Exercises**")[1]
    asked = re.findall(r"^(\d)\. \*", exercises, re.M)
    assert asked in (["1", "2", "3"], ["1", "2", "3", "4"])
    parts = re.split(r"^## (\d\d) ·", _text(NOTEBOOKS / "90_solutions.ipynb"), flags=re.M)
    solutions = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert re.findall(r"^\*\*(\d)\. ", solutions[notebook.stem[:2]], re.M) == asked


def test_the_glossary_names_what_the_code_has() -> None:
    words = {
        word
        for file in (ROOT / "reid_core").rglob("*.py")
        for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))
    }
    symbols = _text(NOTEBOOKS / "glossary.md").split("# Symbols by paper")[1]
    lines = [line for line in symbols.splitlines() if line.startswith("| ")]
    rows = [line.split(" | ") for line in lines if not line.startswith("| symbol")]
    assert len(rows) > 80
    for _, ours, *_ in rows:
        names = re.findall(r"[A-Za-z_]\w+", " ".join(re.findall(r"`([^`]+)`", ours)))
        assert not set(names) - words, ours

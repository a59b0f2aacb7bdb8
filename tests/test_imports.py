"""Data flows one way: no module imports from a group after its own."""

import ast
import sys
import tomllib
from pathlib import Path

import reid_core

PACKAGE = Path(reid_core.__file__).parent
ORDER = [
    ("errors", "paths", "config", "distributed", "precision"),
    ("records",),
    ("data",),
    ("layers",),
    ("losses",),
    ("methods",),
    ("progress", "checkpoint", "health"),
    ("superres", "shared_start"),
    ("train",),
    ("released",),
    ("retrieval",),
    ("figures", "comparisons"),
    ("ranked",),
    ("browser",),
    ("benchmarks",),
    ("notebooks",),
    ("results",),
    ("tables",),
    ("claims",),
    ("drawings",),
    ("artefacts", "clock"),
    ("agreement",),
    ("report",),
    ("reproduce", "site"),
    ("__main__",),
]
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def group(part: str) -> int:
    """The place in ``ORDER`` of a module's first name below ``reid_core``."""
    places = [n for n, names in enumerate(ORDER) if part in names]
    assert places, f"reid_core/{part} has no place in ORDER: give it one"
    return places[0]


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it leads"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_lead_backwards_only():
    for module in MODULES:
        if module == Path("__init__.py"):
            assert not imports(PACKAGE / module)
            continue
        own = group(module.parts[0].removesuffix(".py"))
        for name in imports(PACKAGE / module):
            top, *rest = name.split(".")
            if top == "reid_core":
                assert group(rest[0]) <= own, f"{module} imports {name}, of a later group"


def test_layers_and_losses_need_torch_only():
    for module in MODULES:
        if module.parts[0] not in ("layers", "losses"):
            continue
        for name in imports(PACKAGE / module):
            top, *rest = name.split(".")
            if top == "reid_core":
                assert rest[0] in ("layers", module.parts[0]), f"{module}: {name}"
            else:
                known = {"torch", "torchvision", *sys.stdlib_module_names}
                assert top in known, f"{module}: {name}"


def test_modules_lie_where_the_package_is_told():
    """A folder that pyproject.toml does not list would be missing from an installed package."""
    listed = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {".".join(("reid_core", *m.parts[:-1])) for m in MODULES}
    assert packages == set(listed["tool"]["setuptools"]["packages"])

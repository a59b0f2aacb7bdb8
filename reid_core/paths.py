"""Where things live, found from this file and never from the working directory.

Two environment variables move what is written: ``REID_DATA`` (datasets and packed images) and
``REID_RESULTS`` (run folders). Tests use them to keep out of a user's own results.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
REPORTED = ROOT / "results" / "reported"
PUBLISHED = ROOT / "results" / "published"


def data_folder() -> Path:
    """Datasets, and under ``cache`` their packed images."""
    return Path(os.environ.get("REID_DATA", ROOT / "data"))


def results_folder() -> Path:
    """Results of this machine; run folders live in its ``runs``."""
    return Path(os.environ.get("REID_RESULTS", ROOT / "results"))


def shown(path: Path) -> str:
    """``path`` relative to the project where it lies inside it: what is written to disk or printed
    must mean the same on another machine."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to. When the block ends it becomes ``path``, which so holds either its
    old or its whole new content, whatever happens to the process or the disk meanwhile.

    Raises
    ------
    OSError
        The disk refuses the content; ``path`` keeps what it had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # mkstemp's 0600 would hide results from a group's other members
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes ``content``, text as UTF-8, through `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)

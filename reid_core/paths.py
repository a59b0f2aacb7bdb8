"""Where things live, found from this file and never from the working directory.

Two environment variables move what is written: ``REID_DATA`` (datasets and packed images) and
``REID_RESULTS`` (run folders); a relative one begins at the project, because a notebook's kernel
works in another folder than the shell that started it. Tests use them to keep out of a user's own
results.
"""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
REPORTED = ROOT / "results" / "reported"
PUBLISHED = ROOT / "results" / "published"


def data_folder() -> Path:
    """Datasets, and under ``cache`` their packed images."""
    return ROOT / (os.environ.get("REID_DATA") or "data")


def results_folder() -> Path:
    """Results of this machine."""
    return ROOT / (os.environ.get("REID_RESULTS") or "results")


def runs_folder() -> Path:
    """Run folders of this machine, by their names."""
    return results_folder() / "runs"


def shown(path: Path) -> str:
    """``path`` relative to the project where it lies inside it: what is written to disk or printed
    must mean the same on another machine."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


@contextmanager
def atomic_file(path: Path, *, locked: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write to. When the block ends it becomes ``path``, which so holds either its
    old or its whole new content, whatever happens to the process or the disk meanwhile.

    A process that is killed leaves what it had written under a name of its own, beginning with a
    dot. Who holds a lock for ``path`` says so (``locked``): then that name is always the same, and
    however often a large file's writer is killed, one remainder lies there and is written over.

    Raises
    ------
    OSError
        The disk refuses the content; names ``path``, which keeps what it had.
    """
    temporary = path.with_name(f".{path.name}.{'part' if locked else secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:  # of a full disk the system says neither which file nor what is left
        what = f"cannot be written ({error.strerror or error}); what was there before is kept"
        raise OSError(error.errno, what, shown(path)) from None


def write_atomically(
    path: Path, content: bytes | memoryview | str, *, locked: bool = False
) -> None:
    """Writes ``content``, text as UTF-8, through `atomic_file`."""
    with atomic_file(path, locked=locked) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Writes ``content`` as indented JSON through `atomic_file`."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")

"""``python -m reid_core``: the command line. Each command is one small function that adds its own
parser and one that runs it and returns the exit code."""

import argparse
import sys
from pathlib import Path

from reid_core.data import DATASETS, DatasetError
from reid_core.data.check import check


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0 done, 1 the answer is no (a dataset has errors),
    2 it could not run."""
    parser = argparse.ArgumentParser(prog="python -m reid_core", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    data = commands.add_parser("data", help="check a dataset")
    data_commands = data.add_subparsers(metavar="COMMAND", required=True)
    _add_check(data_commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("check", help="report counts and every defect, by file")
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("path", type=Path, help="the dataset's folder")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    report = check(options.dataset, options.path)
    print(report)
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())

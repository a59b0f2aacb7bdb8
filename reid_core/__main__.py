"""``python -m reid_core``: the command line. Each command is one small function that adds its own
parser and one that runs it and returns the exit code."""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reid_core.data import DatasetError
from reid_core.data.datasets import DRAWN, NAMES, layout, locate, read
from reid_core.data.paperdolls import draw
from reid_core.errors import ReidError
from reid_core.paths import data_folder, shown


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0 done, 1 the answer is no (a dataset has errors),
    2 it could not run."""
    parser = argparse.ArgumentParser(prog="python -m reid_core", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    data = commands.add_parser("data", help="check, draw or pack a dataset")
    data_commands = data.add_subparsers(metavar="COMMAND", required=True)
    _add_check(data_commands)
    _add_draw(data_commands)
    _add_pack(data_commands)
    _add_reproduce(commands)
    _add_train(commands)
    _add_import(commands)
    _add_report(commands)
    _add_site(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ReidError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("check", help="report counts and every defect, by file")
    parser.add_argument("dataset", choices=NAMES)
    parser.add_argument("path", type=Path, help="the dataset's folder")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from reid_core.data.check import check

    report = check(layout(options.dataset), options.path)
    print(report)
    return 1 if report.errors else 0


def _add_draw(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("draw", help="draw PaperDolls")
    parser.add_argument("dataset", choices=DRAWN)
    parser.add_argument("path", type=Path, nargs="?", help="folder to draw into [data/DATASET]")
    for name, meaning in (
        ("seed", "another seed, other people"),
        ("height", "pixels"),
        ("width", "pixels"),
        ("workers", "processes"),
        ("train", "identities"),
        ("val", "identities (SYSU-MM01's layout)"),
        ("test", "identities"),
        ("images", "pictures of an identity under each camera"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=meaning)
    parser.add_argument(
        "--inventory",
        type=Path,
        metavar="FOLDER",
        help="draw exactly SYSU-MM01's identities, cameras and counts, from its own "
        "rand_perm_cam.mat, train_id.mat and test_id.mat",
    )
    parser.set_defaults(run=_draw)


def _draw(options: argparse.Namespace) -> int:
    root = options.path or data_folder() / options.dataset
    settings = _draw_settings(options)
    drawn, seconds = _timed(lambda: draw(options.dataset, root, **settings))
    if drawn:
        print(f"{shown(root)}: {_rate(drawn, seconds)} drawn")
    else:
        print(f"{shown(root)}: already complete, nothing drawn")
    return 0


def _draw_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, as arguments of the drawing function, whose defaults hold for
    the others."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    settings = {k: v for k, v in given.items() if k not in ("run", "dataset", "path")}
    counts = {"train", "val", "test", "images"}
    if layout(options.dataset) == "regdb":
        counts = {"train", "test", "images"}
    elif "inventory" in settings or options.dataset == "paperdolls-full":
        counts = {"inventory"}  # which says how many there are of everything
    allowed = counts | {"seed", "height", "width", "workers"}
    if wrong := [f"--{name}" for name in settings if name not in allowed]:
        choices = ", ".join(f"--{name}" for name in sorted(allowed))
        raise DatasetError(f"{', '.join(wrong)}: not for this set; choose from {choices}")
    return settings


def _add_pack(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("pack", help="decode a dataset once, ahead of training")
    parser.add_argument("dataset", choices=NAMES)
    parser.add_argument("path", type=Path, nargs="?", help="the dataset's folder [data/DATASET]")
    parser.add_argument("--height", type=_positive, default=288, metavar="N", help="pixels [288]")
    parser.add_argument("--width", type=_positive, default=144, metavar="N", help="pixels [144]")
    parser.set_defaults(run=_pack)


def _pack(options: argparse.Namespace) -> int:
    # imports torch, which takes seconds: not for the other commands
    from reid_core.data.images import pack, packed_file

    root = locate(options.dataset, options.path)
    index = read(options.dataset, root)
    size = options.height, options.width
    file = packed_file(index, root, *size)
    known = file.exists()
    _, seconds = _timed(lambda: pack(index, root, *size))
    done = "already packed" if known else f"{_rate(len(index), seconds)} packed"
    print(f"{shown(file)}: {file.stat().st_size / 1e6:.1f} MB, {done}")
    return 0


def _add_reproduce(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "reproduce", help="train what the papers' tables and figures need, and draw them"
    )
    parser.add_argument(
        "artefacts",
        nargs="*",
        default=[],
        metavar="ARTEFACT",
        help="mrda-T1, or mrda for all of a paper [all]",
    )
    parser.add_argument("--list", action="store_true", help="what there is, and what is finished")
    parser.add_argument("--profile", default="demo", help="smoke, demo, gpu or paper [demo]")
    parser.add_argument("--dataset", action="append", help="instead of PaperDolls; may repeat")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of the one dataset")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="K", help="[0]")
    parser.add_argument(
        "--trials",
        type=int,
        nargs="+",
        default=[],
        help="of RegDB's ten [all ten where its papers report their mean; of drawn people 1]",
    )
    parser.add_argument(
        "--jobs", type=_positive, metavar="N", help="runs at a time [one a core; on a GPU 1]"
    )
    parser.add_argument("--only", nargs="+", metavar="RUN", help="profile/dataset/…/seed<k>")
    parser.set_defaults(run=_reproduce, parser=parser)


def _reproduce(options: argparse.Namespace) -> int:
    import torch

    from reid_core import reproduce

    gpu = torch.cuda.is_available()  # which runs beside each other would share
    workers = options.jobs or (1 if gpu else os.cpu_count() or 1)
    data = str(options.data.resolve()) if options.data else ""
    if options.only:
        choices = ("artefacts", "list", "profile", "dataset", "seeds", "trials")
        asked = [c for c in choices if getattr(options, c) != options.parser.get_default(c)]
        if asked:
            options.parser.error(f"--only names whole runs: leave out {', '.join(asked)}")
        jobs, wanted = [reproduce.job_of(name, data) for name in options.only], []
    else:
        wanted = reproduce.chosen(options.artefacts)
        place = reproduce.place_of(
            options.profile, options.dataset or (), data, seed=options.seeds[0]
        )
        of = {"seeds": options.seeds, "trials": options.trials}
        if options.list:
            print(reproduce.overview(wanted, place, workers, **of))
            return 0
        jobs = reproduce.plan(wanted, place, **of)
    failed = reproduce.run_all(jobs, workers)
    where = f" --data {shlex.quote(data)}" if data else ""
    for name, why in failed.items():
        again = f"python -m reid_core reproduce --only {name}{where}"
        print(f"failed: {name}: {why}\n  again: {again}", file=sys.stderr)
    undrawn = reproduce.draw_all(wanted, place) if wanted else {}
    for name, why in undrawn.items():
        print(f"not drawn: {name}: {why}", file=sys.stderr)
    return 1 if failed or undrawn else 0


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train and measure one run",
        description="Trains and measures one run, as a notebook with the same parameters does, or "
        "finishes it. Several processes train one model where a launcher has started them: "
        "torchrun --standalone --nproc-per-node 2 -m reid_core train …",
    )
    parser.add_argument("what", metavar="METHOD/VARIANT", help="for example baselines/two-stream")
    parser.add_argument("--profile", default="demo", help="[demo]")
    parser.add_argument("--dataset", help="[the profile's, or else paperdolls-sysu]")
    parser.add_argument("--data", type=Path, metavar="PATH", help="its folder [data/DATASET]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    parser.add_argument("--trial", type=int, default=1, help="of RegDB's ten [1]")
    parser.add_argument("--device", default="auto", help="cpu, cuda [CUDA where there is one]")
    parser.add_argument(
        "--overrides",
        type=_mapping,
        default={},
        metavar="YAML",
        help="settings, such as '{epochs: 2, weights: none}'",
    )
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    from reid_core import distributed
    from reid_core.config import read_profile
    from reid_core.methods import configure, named
    from reid_core.train import fit

    own = read_profile(options.profile).get("dataset", "paperdolls-sysu")
    place = {"dataset": options.dataset or own, "seed": options.seed, "trial": options.trial}
    run = configure(*named(options.what), options.profile, options.overrides, **place)
    trained = fit(run, options.data, options.device)
    first = distributed.rank() == 0
    distributed.leave()
    if first:
        _print_results(trained)
    return 0


def _add_import(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "import",
        help="measure a checkpoint that others have trained",
        description="Turns a checkpoint of AGW's released code into a run like any other, and "
        "measures it under every protocol. Nothing is trained.",
    )
    parser.add_argument("code", choices=["agw"], help="whose code has made it")
    parser.add_argument("file", type=Path, metavar="FILE", help="the checkpoint")
    parser.add_argument("--dataset", default="sysu", help="it was trained on [sysu]")
    parser.add_argument("--data", type=Path, metavar="PATH", help="its folder [data/DATASET]")
    parser.add_argument("--trial", type=int, default=1, help="of RegDB's ten [1]")
    parser.set_defaults(run=_import)


def _import(options: argparse.Namespace) -> int:
    from reid_core.released import import_agw
    from reid_core.train import fit

    run = import_agw(options.file, options.dataset, options.data, options.trial)
    _print_results(fit(run, options.data))
    return 0


def _print_results(trained: Any) -> None:
    from reid_core.retrieval.features import measure
    from reid_core.retrieval.metrics import HEADLINE

    for result in measure(trained)["results"]:
        setting = f"{result['mode']}, gallery {result['gallery']}, {result['shots']}-shot:"
        print(setting, *(f"{m} {100 * result[m]:.1f} %" for m in HEADLINE))


def _mapping(text: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping such as '{{epochs: 2}}'")
    return content


def _add_report(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "report", help="publish finished runs as records, and the table of them in the README"
    )
    parser.add_argument("--profile", default="demo", help="whose runs to publish [demo]")
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from reid_core.config import read_profile
    from reid_core.report import publish_figures, publish_finished, write_report  # imports torch

    read_profile(options.profile)
    for name in publish_finished(options.profile):
        print(f"published {name}")
    publish_figures()
    write_report()
    return 0


def _add_site(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "site", help="execute the notebooks that are not, and make pages of them: results/site"
    )
    parser.add_argument(
        "notebooks", nargs="*", metavar="NUMBER", help="execute these alone: 02 21 [all]"
    )
    parser.add_argument("--profile", default="demo", help="smoke, demo, gpu or paper [demo]")
    parser.set_defaults(run=_site)


def _site(options: argparse.Namespace) -> int:
    from reid_core.config import read_profile

    read_profile(options.profile)
    try:
        from reid_core import site
    except ModuleNotFoundError as error:  # said before notebooks are executed for nothing
        install = "pip install -c constraints.txt -e '.[site]'"
        print(f"error: {error}. Install what makes the pages: {install}", file=sys.stderr)
        return 2
    failed = site.execute_missing(site.chosen(options.notebooks), options.profile)
    for name, why in failed.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    print(f"open {shown(site.build(options.profile))}")
    return 1 if failed else 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of ``work``, and the seconds that it took."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def _rate(images: int, seconds: float) -> str:
    return f"{images} images in {seconds:.1f} s ({images / seconds:.0f} images/s)"


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has × and —
    sys.exit(main())

"""What can go wrong on a student's machine, what is promised then, and the tests that try it.

``FAULTS`` is the table; most of its tests stand beside what they test, those of several parts
together here. ``pytest -m slow`` tries more moments of a kill than CI has time for.
"""

import ast
import ctypes
import errno
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from test_resume import Killed, assert_same_run, interrupted, smoke
from test_train import Planted

from reid_core import figures, paths, records, reproduce, results, superres, tables
from reid_core.__main__ import main
from reid_core.artefacts import artefacts
from reid_core.data import DatasetError, images, read_sysu
from reid_core.data.datasets import obtain
from reid_core.data.images import digest, fingerprint, pack, packed_file
from reid_core.drawings import Place
from reid_core.methods import configure
from reid_core.methods.baselines import Model
from reid_core.paths import ROOT
from reid_core.records import RunError
from reid_core.retrieval.features import kept_features, measure
from reid_core.train import fit

FAULTS = """
# fault | what is promised | tests
SIGKILL at twenty random moments of a training, from packing to measuring | the next start ends with the same bytes: weights, history, features, metrics | test_resume.test_killed_at_twenty_random_moments
SIGKILL before any of a run's files gets its name | the same; what is there is whole | test_resume.test_killed_before_any_of_its_files
SIGKILL at random moments of a reproduction's runs (3, with `-m slow` 20), kernels included or not | the next `reproduce` ends with the same results | test_reproduce.test_a_killed_reproduction_ends_as_one_that_was_not
SIGKILL while a reproduction draws, before any of its tables and charts gets its name (planning writes nothing) | what is there is whole; the next `reproduce` draws the same, to the byte | test_faults.test_a_reproduction_killed_while_it_draws
SIGKILL while packing | one remainder at most, however often; nothing half packed is read | test_faults.test_killed_while_packing
SIGKILL, Ctrl-C or error while a figure is drawn | no half picture, and no PNG without its SVG, that counts as drawn | test_faults.test_a_figure_is_written_whole_or_not_at_all, test_faults.test_killed_while_a_figure_is_drawn
Ctrl-C (KeyboardInterrupt) while PaperDolls are drawn | drawn to the end by the next start | test_paperdolls.test_an_interrupted_drawing_is_completed
Ctrl-C in a training, or between features and metrics | the lock is free and the next start goes on | test_resume.test_momentum_of_every_optimizer_survives, test_features.test_killed_between_features_and_metrics
full disk at params.json, while packing, at a checkpoint, features.npy or metrics.json | the error names the file; what was there is kept, no half file is left; with space again the same end | test_faults.test_a_full_disk, test_faults.test_a_full_disk_at_the_results, test_images.test_a_full_disk_leaves_nothing, test_train.test_checkpoint_and_history_are_written_whole_or_not_at_all, test_features.test_features_are_written_whole_or_not_at_all
two processes (kernels) on one run folder | the second is refused by name; a killed one's lock is free | test_train.test_run_in_use_is_refused
two processes on one cache | packed once; the second waits | test_images.test_two_processes_at_once
two processes draw one set | drawn once; the second waits | test_paperdolls.test_two_processes_at_once
a file system without locks (NFS) | refused with the folder and REID_RESULTS or REID_DATA named | test_faults.test_a_file_system_without_locks
corrupted checkpoint: cut, overwritten, one bit | refused by name, with what to do | test_train.test_damaged_checkpoint_is_refused_and_never_executed, test_faults.test_one_wrong_bit_in_a_checkpoint
checkpoint with a made-up history | refused by name | test_faults.test_a_checkpoint_with_another_history
a pickle that tries to execute code, as checkpoint, weights, features or super-resolution network | refused, never executed | test_train.test_damaged_checkpoint_is_refused_and_never_executed, test_faults.test_a_pickle_in_place_of_a_file_is_never_executed
checkpoint of another dataset, seed or setting, of the same shape | refused, each difference named | test_faults.test_a_checkpoint_of_another_run, test_train.test_checkpoint_of_another_model_is_refused
checkpoint from before it said whose it is | taken, as params.json binds it | test_faults.test_a_checkpoint_of_another_run
one wrong bit in a super-resolution network | refused by name, with what to do | test_faults.test_one_wrong_bit_in_a_super_resolution_network
corrupted cache: cut, longer, other header | refused by name; deleted, it is packed again. NOT noticed: wrong bits in its pixels, for which all of the file would have to be read at every start | test_images.test_a_damaged_packed_file_is_no_garbage
corrupted params.json, also by hand | refused by name | test_records.test_damaged_params_are_refused, test_faults.test_params_edited_by_hand
corrupted metrics.json among many | the tables name it | test_faults.test_one_damaged_metrics_file_among_many
corrupted CSV: cut, or saved by a spreadsheet with decimal commas | refused by name | test_faults.test_a_history_that_a_spreadsheet_saved, test_faults.test_published_numbers_that_a_spreadsheet_saved
corrupted rand_perm_cam.mat (half-copied dataset) | named; what is trained is kept | test_faults.test_a_half_copied_permutations_file
half-copied dataset: cut, empty, missing pictures, missing cameras and lists | named, nothing cached; `data check` lists all of it | test_images.test_a_damaged_picture_is_named_and_nothing_cached, test_data_check.test_everything_is_reported_at_once, test_readers.test_sysu_refuses_missing_camera
id lists with path tricks, endless numbers, any bytes | an index inside the folder, or an error with the list's name | test_readers.test_lists_refuse_malformed_lines_and_paths_out_of_the_folder, test_properties.test_a_list_of_anything_is_an_index_or_an_error_that_names_the_file, test_properties.test_a_file_of_any_name_is_read_or_refused, test_properties.test_a_camera_of_any_number_in_a_name
a run finished on other data, in the place of one that is asked for | left alone, and named | test_reproduce.test_other_data_in_its_place_are_left_alone_and_named
a dataset that lacks what its protocol asks for | named; what is trained is kept | test_train.test_dataset_that_lacks_what_its_protocol_asks_keeps_what_is_trained
SIGKILL or a full disk while papermill writes an executed notebook | counts as not executed, and stops no page | test_site.test_only_a_notebook_that_ran_to_its_end_is_reused
a picture deleted after packing | what is left is other data, which a begun run refuses, and says to put back; then it ends the same | test_faults.test_a_dataset_that_is_gone_after_packing
a picture unreadable after packing | named; readable again, the run ends the same | test_faults.test_a_picture_that_is_unreadable_after_packing
pictures changed after packing, even of the same names and sizes | packed again; a begun run refuses them | test_images.test_a_changed_picture_is_packed_again, test_faults.test_pictures_that_changed_during_a_run
another dataset in the folder | a begun run refuses it | test_train.test_other_settings_and_other_data_are_refused
PaperDolls of another version or settings in the folder | refused | test_datasets.test_obtain_draws_what_is_missing_and_refuses_what_was_drawn_otherwise
a file where a folder is expected, folders and lists that this user may not read | named | test_faults.test_what_this_user_may_not_read, test_faults.test_a_file_in_place_of_a_folder
read-only data folder | complete sets and packed pictures are used; what must be written names REID_DATA | test_faults.test_a_read_only_data_folder, test_images.test_a_cache_that_cannot_be_written
read-only results folder | refused with REID_RESULTS named | test_faults.test_a_read_only_results_folder
the clock jumps (laptop sleep, wrong time) | same bytes | test_faults.test_the_clock_may_jump
other time zone, locale (text as ASCII; decimal commas where the machine has or can make such a locale), hash seed, working directory | same bytes of data, training, figures' data and figures | test_faults.test_the_same_bytes_whatever_the_machine_is_set_to
another seed | other data, other training; the same seed the same | test_train.test_seed_decides_every_bit, test_paperdolls.test_the_same_to_the_byte_from_a_seed
notebook started from another working directory, relative REID_DATA | the same folders | test_notebooks.test_runs_on_the_smoke_profile, test_faults.test_relative_folders_begin_at_the_project
settings of any kind | a run, or an error with the setting's name | test_properties.test_a_value_is_taken_as_it_is_or_refused_as_a_setting, test_properties.test_an_unknown_setting_is_refused_by_its_name, test_properties.test_overrides_of_any_kind_are_taken_or_refused
"""  # noqa: E501 - a table
ROWS = [line.split(" | ") for line in FAULTS.strip().splitlines()[1:]]


def functions_of(module: str) -> set[str]:
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("fault, promise, names", ROWS, ids=[row[0] for row in ROWS])
def test_every_fault_of_the_table_is_tried(fault, promise, names):
    for name in names.split(", "):
        module, _, test = name.partition(".")
        assert test.startswith("test_") and test in functions_of(module), f"{fault}: no {name}"


def test_the_table_is_whole():
    named = {name for row in ROWS for name in row[2].split(", ")}
    own = {
        f"test_faults.{test}" for test in functions_of("test_faults") if test.startswith("test_")
    }
    table = {"test_every_fault_of_the_table_is_tried", "test_the_table_is_whole"}
    assert own - named == {f"test_faults.{test}" for test in table}


# means

RUN = smoke(epochs=2, steps=2)


@pytest.fixture(scope="module")
def whole(tiny_dolls, tmp_path_factory) -> Path:
    """The folder of the run that nothing happened to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REID_RESULTS", str(tmp_path_factory.mktemp("whole")))
        measure(fit(RUN, tiny_dolls))
        return records.folder_of(RUN)


@pytest.fixture(autouse=True)
def own(monkeypatch, tmp_path):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("REID_DATA", str(tmp_path / "data"))


@pytest.fixture
def dolls(tiny_dolls, tmp_path) -> Path:
    """A copy that may be spoilt."""
    return shutil.copytree(tiny_dolls, tmp_path / "dolls")


# children of a server that has loaded what they need start at once
FORKSERVER = multiprocessing.get_context("forkserver")
LOADED = ["reid_core.retrieval.features", "reid_core.reproduce", "nbclient", "pytest"]


def child(work, *given):
    """Calls a function in a process of its own, which ends with it; returns or raises what it
    does."""
    FORKSERVER.set_forkserver_preload(LOADED)
    here, there = FORKSERVER.Pipe(duplex=False)
    folders = {name: os.environ[name] for name in ("REID_DATA", "REID_RESULTS")}
    process = FORKSERVER.Process(target=_answer, args=(there, folders, work, given))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    if isinstance(found, Exception):
        raise found
    return found


def _answer(there, folders, work, given):
    os.environ |= folders
    torch.set_num_threads(1)
    try:
        there.send(work(*given))
    except Exception as error:
        there.send(error)


def train(dolls: Path) -> None:
    measure(fit(RUN, dolls))


def stop_after_the_first_epoch(dolls: Path, run=RUN) -> Path:
    """A begun run's checkpoint."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Model, "losses", interrupted(3))
        fit(run, dolls)
    return records.folder_of(run) / "checkpoint.pt"


def ends_as(whole: Path, dolls: Path) -> None:
    train(dolls)
    assert_same_run(records.folder_of(RUN), whole)


# kills


def pack_and_die(dolls: Path, at: int) -> None:
    decode, calls = images.decode, iter(range(at))

    def deadly(*given):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(*given)

    images.decode, images._CHUNK = deadly, 4
    pack(read_sysu(dolls), dolls, 48, 24)


def test_killed_while_packing(tiny_dolls, tmp_path):
    cache = tmp_path / "data" / "cache"
    for at in (1, 30, 60):
        with pytest.raises(EOFError):  # it died without an answer
            child(pack_and_die, tiny_dolls, at)
        (left,) = cache.iterdir()
        assert left.name.endswith(".npy.part")
    index = read_sysu(tiny_dolls)
    assert len(pack(index, tiny_dolls, 48, 24)) == len(index)
    assert list(cache.iterdir()) == [packed_file(index, tiny_dolls, 48, 24)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_figure_is_written_whole_or_not_at_all(error, tmp_path, monkeypatch):
    figure = figures.picture_grid([[np.zeros((4, 2, 3), np.uint8)]], "title")
    figures.save(figure, tmp_path, "kept")
    before = (tmp_path / "kept.png").read_bytes()

    def half(file, **_):
        file.write(b"half") if hasattr(file, "write") else Path(file).write_bytes(b"half")
        raise error

    monkeypatch.setattr(figure, "savefig", half)
    for name in ("kept", "new"):
        with pytest.raises(error):
            figures.save(figure, tmp_path, name)
    assert (tmp_path / "kept.png").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {"kept.png", "kept.svg"}


def draw(folder: Path, name: str, die_at: int = 0) -> None:
    """Draws a PNG and its SVG; it dies in the ``die_at``-th of them, half written."""
    figure = figures.picture_grid([[np.zeros((4, 2, 3), np.uint8)]], "title")
    savefig, calls = figure.savefig, []

    def deadly(file, **given):
        calls.append(given)
        if len(calls) == die_at:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        savefig(file, **given)

    figure.savefig = deadly
    figures.save(figure, folder, name)


def test_killed_while_a_figure_is_drawn(tmp_path):
    folder = tmp_path / "figures"
    draw(folder, "kept")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for die_at in (1, 2):
        for name in ("kept", "new"):
            with pytest.raises(EOFError):
                child(draw, folder, name, die_at)
    named = {p.name: p.read_bytes() for p in folder.iterdir() if p.name[0] != "."}
    assert named == before
    draw(folder, "new")
    assert (folder / "new.png").is_file() and (folder / "new.svg").is_file()


def draw_artefact(name: str, die_before: int = 0) -> None:
    """By `reproduce`; it dies before its ``die_before``-th file gets its name."""
    named, replaced = [], Path.replace

    def deadly(path, target):
        named.append(target)
        if len(named) == die_before:
            os.kill(os.getpid(), signal.SIGKILL)
        return replaced(path, target)

    Path.replace = deadly
    assert main(["reproduce", name, "--profile", "smoke"]) == 0


def test_a_reproduction_killed_while_it_draws(whole, tmp_path):
    """Its runs are finished: the results of one stand for all."""
    place = Place("smoke", "paperdolls-tiny", "paperdolls-tiny-regdb")
    artefact = artefacts()["mrda-T2"]
    results = records.read_json(whole / "metrics.json")["results"]
    for job in reproduce.plan([artefact], place):
        content = {"config": job.run.to_dict(), "data": "x", "results": results}
        paths.write_atomically(records.folder_of(job.run) / "metrics.json", json.dumps(content))

    def drawn() -> dict[str, bytes]:
        files = artefact.folder(place).iterdir()
        return {p.name: p.read_bytes() for p in files if not p.name.startswith(".")}

    child(draw_artefact, artefact.name)
    expected = drawn()
    assert len(expected) == 4  # two tables, and a chart as PNG and SVG
    shutil.rmtree(artefact.folder(place))
    for file in range(1, 5):
        with pytest.raises(EOFError):
            child(draw_artefact, artefact.name, file)
        assert drawn() == {name: expected[name] for name in drawn()} and len(drawn()) == file - 1
    child(draw_artefact, artefact.name)
    assert drawn() == expected


# full disk


def with_little_space(limit: int, work, *given, **more):
    """As if the disk had room for files of ``limit`` bytes only."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return work(*given, **more)


def without_space_for_metrics(dolls: Path) -> None:
    records.finish = partial(with_little_space, 1_000, records.finish)  # in a child: for good
    train(dolls)


def written(folder: Path) -> set[Path]:
    """Every file, half ones under their own names included."""
    return {p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock")}


@pytest.mark.parametrize(
    "limit, error, named, left",  # how many of a run's first files
    [
        (1_000, OSError, r"params\.json", 0),
        (50_000, DatasetError, r"cache: packed pictures cannot be written.*REID_DATA", 1),
        (5_000_000, OSError, r"checkpoint\.pt", 2),
    ],
)
def test_a_full_disk(limit, error, named, left, tiny_dolls, whole, tmp_path):
    packed = packed_file(read_sysu(tiny_dolls), tiny_dolls, RUN.height, RUN.width)
    first = [records.folder_of(RUN) / "params.json", packed]
    with pytest.raises(error, match=named) as raised:
        child(with_little_space, limit, train, tiny_dolls)
    assert "File too large" in str(raised.value)
    assert written(tmp_path) == set(first[:left])
    ends_as(whole, tiny_dolls)


def test_a_full_disk_at_the_results(tiny_dolls, whole, tmp_path):
    train(tiny_dolls)
    folder = records.folder_of(RUN)
    features, metrics = folder / "features.npy", folder / "metrics.json"
    trained = written(tmp_path) - {features, metrics}
    for work, full, left in (
        (partial(with_little_space, 10_000, train), features, trained),
        (without_space_for_metrics, metrics, trained | {features}),
    ):
        features.unlink()
        metrics.unlink()
        with pytest.raises(OSError, match=rf"cannot be written .*{full.name}"):
            child(work, tiny_dolls)
        assert written(tmp_path) == left
        ends_as(whole, tiny_dolls)


# locks


def test_a_file_system_without_locks(tiny_dolls, monkeypatch):
    def unable(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    index = read_sysu(tiny_dolls)
    with monkeypatch.context() as patch:
        patch.setattr(filelock.FileLock, "_acquire", unable)
        with pytest.raises(RunError, match=r"seed0: cannot be .*locked.*No locks.*REID_RESULTS"):
            fit(RUN, tiny_dolls)
        with pytest.raises(DatasetError, match=r"cache: .*No locks.*REID_DATA"):
            pack(index, tiny_dolls, 48, 24)


# checkpoints


def spoil_a_bit(file: Path) -> bytes:
    """Of its weights. torch.load looks at no checksum: it takes other weights without a word.
    Returns what the file had."""
    content = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        largest = archive.read(max(archive.infolist(), key=lambda part: part.file_size))
    place = content.index(largest) + len(largest) // 2
    file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    torch.load(file, weights_only=True)
    return content


def test_one_wrong_bit_in_a_checkpoint(tiny_dolls, whole):
    file = stop_after_the_first_epoch(tiny_dolls)
    content = spoil_a_bit(file)
    with pytest.raises(RunError, match=r"checkpoint\.pt: damaged.*checksum of.*Delete the file"):
        fit(RUN, tiny_dolls)
    file.write_bytes(content)
    ends_as(whole, tiny_dolls)


def test_one_wrong_bit_in_a_super_resolution_network(tiny_dolls, monkeypatch):
    sharp = configure("baselines", "two-stream", "smoke", {"superres": True, "superres_steps": 1})
    index, cpu = read_sysu(tiny_dolls), torch.device("cpu")
    small = superres.recipe_of(sharp)
    monkeypatch.setattr(superres, "recipe_of", lambda _: replace(small, crop=16, batch=4))
    superres.obtain(sharp, index, tiny_dolls, cpu)
    spoil_a_bit(superres.folder_of(sharp) / "weights.pt")
    with pytest.raises(RunError, match=r"weights\.pt: damaged.*checksum of.*Delete its folder"):
        superres.obtain(sharp, index, tiny_dolls, cpu)


@pytest.mark.parametrize("history", ["xy", [], [{}], [{"epoch": 2}], [{"epoch": 1}] * 2, [1], None])
def test_a_checkpoint_with_another_history(history, tiny_dolls):
    file = stop_after_the_first_epoch(tiny_dolls)
    torch.save(torch.load(file, weights_only=True) | {"history": history}, file)
    with pytest.raises(RunError, match=r"checkpoint\.pt: damaged"):
        fit(RUN, tiny_dolls)


def test_a_checkpoint_of_another_run(tiny_dolls, tmp_path):
    """Of another seed, and of another dataset with as many people: its weights would fit."""
    other = shutil.copytree(tiny_dolls, tmp_path / "other")
    picture = next(other.glob("cam1/*/0001.jpg"))
    picture.write_bytes(picture.read_bytes() + b"\0")
    of_another_seed = stop_after_the_first_epoch(tiny_dolls, replace(RUN, seed=1))
    of_other_data = stop_after_the_first_epoch(other, replace(RUN, seed=2))
    file = stop_after_the_first_epoch(tiny_dolls)
    own = file.read_bytes()
    for foreign, difference in (
        (of_another_seed, r"settings: seed is 1 there, 0 asked\. "),
        (of_other_data, r"settings: data is '.*' there, '.*' asked; seed is 2 there"),
    ):
        shutil.copyfile(foreign, file)
        with pytest.raises(RunError, match=rf"checkpoint\.pt: .*{difference}"):
            fit(RUN, tiny_dolls)
    file.write_bytes(own)
    state = torch.load(file, weights_only=True)
    del state["owner"]
    torch.save(state, file)
    assert len(fit(RUN, tiny_dolls).history) == 2


def test_a_pickle_in_place_of_a_file_is_never_executed(tiny_dolls, tmp_path, monkeypatch):
    planted = tmp_path / "planted"
    trap = pickle.dumps(Planted(planted))
    trained = fit(RUN, tiny_dolls)
    measure(trained)
    array = np.empty(len(kept_features(trained)), object)
    array[:] = Planted(planted)
    file = trained.folder / "features.npy"
    file.write_bytes(trap)
    with pytest.raises(RunError, match=r"features\.npy: missing or damaged.*Delete"):
        kept_features(trained)
    np.save(file, array, allow_pickle=True)
    with pytest.raises(RunError, match=r"features\.npy: missing or damaged"):
        kept_features(trained)
    weights = paths.data_folder() / "weights" / "trap.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(trap)
    with pytest.raises(ValueError, match=r"trap\.pth' is not a state dict"):
        fit(replace(smoke(backbone="resnet18", weights="trap.pth"), seed=1), tiny_dolls)
    sharp = configure("baselines", "two-stream", "smoke", {"superres": True, "superres_steps": 1})

    def trained_before(folder, asked, *_):
        (folder / "weights.pt").write_bytes(trap)
        (folder / "metrics.json").write_text(json.dumps(asked))

    monkeypatch.setattr(superres, "_train_into", trained_before)
    with pytest.raises(RunError, match=r"weights\.pt: damaged"):
        superres.obtain(sharp, trained.index, tiny_dolls, torch.device("cpu"))
    assert not planted.exists()


# records


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace('"lr": 0.02', '"lr": "0,1"'), r"lr is '0,1' there, 0\.02 asked"),
        (lambda text: text.replace('"lr": 0.02', '"lr": 0,1'), r"params\.json: missing or damaged"),
        (lambda text: "\ufeff" + text, r"params\.json: missing or damaged"),
        (lambda text: '{"config": [], "data": ""}', r"params\.json: missing or damaged"),
        (lambda text: '{"config": {"model": 3}, "data": ""}', r"params\.json: missing or damaged"),
        (lambda text: '{"config": {}, "data": ""}', r"variant is None there"),
        (lambda text: "[" * 100_000, r"params\.json: missing or damaged"),
    ],
)
def test_params_edited_by_hand(change, message, tiny_dolls):
    file = stop_after_the_first_epoch(tiny_dolls).with_name("params.json")
    file.write_text(change(file.read_text()), encoding="utf-8")
    with pytest.raises(RunError, match=message):
        fit(RUN, tiny_dolls)


@pytest.mark.parametrize("key", ["results", "config"])
def test_one_damaged_metrics_file_among_many(key, whole, monkeypatch):
    folder = records.folder_of(RUN)
    shutil.copytree(whole, folder)
    content = records.read_json(folder / "metrics.json")
    content[key] = 3 if key == "results" else {"model": {}}
    (folder / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"seed0/metrics\.json: .*damaged.*measured again"):
        results.table("smoke")


SPREADSHEET = {",": ";", ".": ","}  # German: semicolons between columns, commas in numbers


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.translate(str.maketrans(SPREADSHEET)),
        lambda text: text.replace("0.02", '"0,02"'),
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "\0\0\0",
        lambda text: text + "1,2,3,4,5,6,7,8,9\n",
    ],
)
def test_a_history_that_a_spreadsheet_saved(change, whole, tiny_dolls):
    folder = records.folder_of(RUN)
    shutil.copytree(whole, folder)
    file = folder / "history.csv"
    content = file.read_text()
    file.write_text(change(content))
    with pytest.raises(RunError, match=r"history\.csv: missing or damaged"):
        records.history(RUN)
    file.unlink()
    fit(RUN, tiny_dolls)
    assert file.read_text() == content


@pytest.mark.parametrize("change", ["comma", "spreadsheet", "cut", "empty"])
def test_published_numbers_that_a_spreadsheet_saved(change, monkeypatch, tmp_path):
    content = (paths.PUBLISHED / "mrda.csv").read_text(encoding="utf-8")
    changed = {
        "comma": content.replace(content.splitlines()[1].rsplit(",")[-1], '"1,5"', 1),
        "spreadsheet": content.translate(str.maketrans(SPREADSHEET)),
        "cut": content[:20],
        "empty": "",
    }
    (tmp_path / "mrda.csv").write_text(changed[change], encoding="utf-8")
    monkeypatch.setattr(tables, "PUBLISHED", tmp_path)
    with pytest.raises(ValueError, match=r"mrda\.csv: "):
        tables.published("mrda")


# datasets


def test_a_half_copied_permutations_file(dolls, whole):
    file = dolls / "exp" / "rand_perm_cam.mat"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=r"rand_perm_cam\.mat: unreadable.*is kept"):
        train(dolls)
    file.write_bytes(content)
    ends_as(whole, dolls)


def test_a_dataset_that_is_gone_after_packing(dolls, whole, tmp_path):
    stop_after_the_first_epoch(dolls)
    picture = dolls / read_sysu(dolls)["path"][0]
    away = picture.rename(tmp_path / "away.jpg")
    with pytest.raises(RunError, match=r"data is '.*' there.*deleted.*put back"):
        fit(RUN, dolls)  # what is left is another dataset
    away.rename(picture)
    ends_as(whole, dolls)


def test_pictures_that_changed_during_a_run(dolls, whole):
    stop_after_the_first_epoch(dolls)
    index = read_sysu(dolls)
    known = fingerprint(index, dolls), digest(index, dolls)
    one, two = sorted((dolls / p for p in index["path"][:2]), key=lambda p: p.stat().st_size)
    content = two.read_bytes()
    two.write_bytes(one.read_bytes().ljust(len(content), b"\0"))  # a JPEG file may go on at its end
    assert fingerprint(index, dolls) == known[0] and digest(index, dolls) != known[1]
    with pytest.raises(RunError, match=r"checkpoint\.pt: .*data is '.*' there"):
        fit(RUN, dolls)
    two.write_bytes(content)
    ends_as(whole, dolls)


@pytest.mark.parametrize("path", ["cam1/0003", "cam1", "exp"])
def test_a_file_in_place_of_a_folder(path, sysu):
    shutil.rmtree(sysu / path)
    (sysu / path).touch()
    with pytest.raises(DatasetError, match=rf"/{path}.*: .*expected"):
        read_sysu(sysu)


# permissions


def as_anyone(work, *given):
    """Calls ``work`` in this process, for good without root's right to read and write anything."""
    if os.geteuid() == 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # of capset(2), version 3; this process
        if ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) != 0:
            return None
    return work(*given)


@contextmanager
def allowed(mode: int, *folders: Path):
    for folder in folders:
        folder.chmod(mode)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="knows how Linux takes root's rights only")
def test_what_this_user_may_not_read(sysu):
    for path in ("exp/train_id.txt", "exp", "cam1", "cam1/0001"):
        with (
            allowed(0, sysu / path),
            pytest.raises(DatasetError, match=rf"/{path}.*Permission denied"),
        ):
            child(as_anyone, read_sysu, sysu)
    with (
        allowed(0, sysu / "cam1/0001/0001.jpg"),
        pytest.raises(DatasetError, match=r"cam1/0001/0001\.jpg: cannot be read .*Permission"),
    ):
        child(as_anyone, pack, read_sysu(sysu), sysu, 8, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="knows how Linux takes root's rights only")
def test_a_picture_that_is_unreadable_after_packing(dolls, whole):
    stop_after_the_first_epoch(dolls)
    path = read_sysu(dolls)["path"][0]
    with (
        allowed(0, dolls / path),
        pytest.raises(DatasetError, match=rf"{path}: cannot be read .*Permission denied"),
    ):
        child(as_anyone, train, dolls)
    ends_as(whole, dolls)


def draw_then_train(dolls: Path) -> None:
    obtain("paperdolls-tiny")
    train(dolls)


@pytest.mark.skipif(sys.platform != "linux", reason="knows how Linux takes root's rights only")
def test_a_read_only_data_folder(dolls, whole, tmp_path):
    """A lecturer's, who has drawn and packed what the students train on."""
    data = tmp_path / "data"
    obtain("paperdolls-tiny")
    folders = [data, data / "paperdolls-tiny", dolls, *(p for p in dolls.rglob("*") if p.is_dir())]
    with (
        allowed(0o555, *folders),
        pytest.raises(DatasetError, match=r"cache: packed pictures cannot .*denied.*REID_DATA"),
    ):
        child(as_anyone, draw_then_train, dolls)
    pack(read_sysu(dolls), dolls, RUN.height, RUN.width)
    with allowed(0o555, *folders, data / "cache"):
        child(as_anyone, draw_then_train, dolls)
    assert_same_run(records.folder_of(RUN), whole)


@pytest.mark.skipif(sys.platform != "linux", reason="knows how Linux takes root's rights only")
def test_a_read_only_results_folder(tiny_dolls, tmp_path):
    (tmp_path / "results").mkdir()
    with (
        allowed(0o555, tmp_path / "results"),
        pytest.raises(RunError, match=r"seed0: cannot be written .*denied.*REID_RESULTS"),
    ):
        child(as_anyone, train, tiny_dolls)


# clock, locale, working directory


def test_the_clock_may_jump(dolls, whole, monkeypatch):
    times = iter(range(10**9, 0, -86_400))
    monkeypatch.setattr("time.time", lambda: next(times))
    for picture in dolls.rglob("*.jpg"):
        os.utime(picture, (-1, 2**33))  # before 1970, and long after this test
    ends_as(whole, dolls)


def test_relative_folders_begin_at_the_project(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, folder in (("REID_DATA", paths.data_folder), ("REID_RESULTS", paths.results_folder)):
        for value, expected in (("mine", ROOT / "mine"), (str(tmp_path), tmp_path)):
            monkeypatch.setenv(name, value)
            assert folder() == expected
        monkeypatch.setenv(name, "")
        assert folder() == ROOT / name.removeprefix("REID_").lower()


MAKES_EVERYTHING = """
import hashlib, locale, random, sys
from pathlib import Path
import numpy as np
import torch
locale.setlocale(locale.LC_ALL, "")
torch.set_num_threads(1)
from reid_core import figures, ranked
from reid_core.data.paperdolls import draw_sysu
from reid_core.methods import configure
from reid_core.retrieval import explain
from reid_core.retrieval.features import measure
from reid_core.retrieval.lists import best_matches
from reid_core.train import fit
root = Path(sys.argv[1]) / "dolls"
draw_sysu(root, train=4, val=4, test=4, images=2, height=48, width=24, workers=1)
trained = fit(configure("baselines", "two-stream", "smoke", {"erase": 0.5}), root)
content = measure(trained)
lists = best_matches(trained)
points = explain.tsne(explain.unit_features(trained))
people = explain.choose_people(trained.index[trained.index["split"] == "test"], 2)
seen = explain.person_maps(trained, people)
top = ranked.top_lists(lists, "\\u00c4hnlich \\u2014 title")
figures.save(top, trained.folder / "figures", "top")
curves = figures.training_curves({"run": trained.history}, "numbers on axes")
figures.save(curves, trained.folder / "figures", "curves")
history = trained.history.drop(columns="seconds").to_csv()
made = {"metrics": repr(content["results"]), "history": history, "data": content["data"]}
made |= {"lists": lists.matches.tobytes(), "points": points.tobytes(), "people": repr(people)}
made |= {f"maps {k}": v.tobytes() for k, v in seen.maps.items()}
for file in sorted([*root.rglob("*"), *trained.folder.rglob("*")]):
    if file.suffix in (".jpg", ".mat", ".txt", ".npy", ".png", ".svg"):
        made[file.relative_to(sys.argv[1]).as_posix()] = file.read_bytes()
for name, value in made.items():
    value = value.encode() if isinstance(value, str) else value
    print(name, hashlib.sha256(value).hexdigest())
"""


def with_decimal_commas(folder: Path) -> dict[str, str]:
    """The machine's German locale, or one made in ``folder`` from the system's sources; without
    either a warning, and no commas."""
    german = {"LC_ALL": "de_DE.UTF-8"}
    make = f"localedef -i de_DE -f UTF-8 '{folder}/de_DE.UTF-8';"
    for machine, first in ((german, ""), (german | {"LOCPATH": str(folder)}, make)):
        asked = subprocess.run(
            f"{first} locale decimal_point",
            shell=True, capture_output=True, text=True, env=os.environ | machine,
        )  # fmt: skip
        if asked.stdout == ",\n":
            return machine
    warnings.warn("decimal commas are not tried: no de_DE.UTF-8 here", stacklevel=2)
    return {"LC_ALL": "C.UTF-8"}


def test_the_same_bytes_whatever_the_machine_is_set_to(tmp_path):
    """Data, training, the data of figures and the figures themselves."""
    machines = [
        {"PYTHONHASHSEED": "1", "TZ": "Asia/Shanghai"} | with_decimal_commas(tmp_path),
        {"PYTHONHASHSEED": "2", "TZ": "America/Lima", "LC_ALL": "C"}
        | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},  # all text is ASCII, unless one says not
    ]
    started = []
    for number, machine in enumerate(machines):
        folder = tmp_path / str(number)
        folder.mkdir()
        own = {"REID_DATA": str(folder / "data"), "REID_RESULTS": str(folder / "results")}
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", MAKES_EVERYTHING, str(folder)],
                env=os.environ | machine | own | {"PYTHONPATH": path},
                cwd=folder,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    one, two = (process.communicate(timeout=300)[0].splitlines()[-400:] for process in started)
    assert [process.returncode for process in started] == [0, 0]
    hashes = [[line for line in lines if len(line.split()[-1]) == 64] for lines in (one, two)]
    assert hashes[0] == hashes[1] and len(hashes[0]) > 100

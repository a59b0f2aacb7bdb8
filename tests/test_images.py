"""Decoding and packing: every mode, every damage, several processes, little memory."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid_core.__main__ import main
from reid_core.data import DatasetError, images
from reid_core.data.check import check
from reid_core.data.datasets import read
from reid_core.data.images import PackedImages, decode, fingerprint, pack, packed_file
from reid_core.data.index import Row, make_index


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    data = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("REID_DATA", str(data))
    return data / "cache"


@pytest.fixture
def pictures(tmp_path):
    """Seven pictures of noise in several sizes and modes, and their index."""
    rng = np.random.default_rng(0)
    rows = []
    for number, mode in enumerate(("RGB", "L", "RGB", "P", "CMYK", "RGB", "RGB"), 1):
        noise = rng.integers(0, 256, (20 + number, 11, 3), np.uint8)
        path = f"{number}.{'png' if mode == 'P' else 'jpg'}"
        Image.fromarray(noise).convert(mode).save(tmp_path / path)
        rows.append(Row(path, number, 1, "visible", "train", 1))
    return tmp_path, make_index(rows)


def uniform(mode: str, value) -> Image.Image:
    if mode == "P":
        image = Image.new("P", (6, 9), 3)
        image.putpalette([0] * 9 + list(value))
        return image
    kind = {"I": np.int32, "I;16": np.uint16, "I;16B": ">u2", "F": np.float32}.get(mode)
    return Image.fromarray(np.full((9, 6), value, kind)) if kind else Image.new(mode, (6, 9), value)


@pytest.mark.parametrize(
    "mode, suffix, value, expected",
    [
        ("RGB", "png", (10, 20, 30), (10, 20, 30)),
        ("RGB", "bmp", (10, 20, 30), (10, 20, 30)),
        ("L", "png", 77, (77, 77, 77)),
        ("LA", "png", (77, 5), (77, 77, 77)),
        ("P", "png", (10, 20, 30), (10, 20, 30)),
        ("RGBA", "png", (10, 20, 30, 5), (10, 20, 30)),
        ("CMYK", "tiff", (0, 255, 255, 0), (255, 0, 0)),
        ("1", "png", 1, (255, 255, 255)),
        ("I;16", "png", 0x7FFF, (127, 127, 127)),
        ("I;16", "tiff", 0xFFFF, (255, 255, 255)),
        ("I;16B", "tiff", 0x12FF, (18, 18, 18)),
        ("I", "tiff", 40000, (156, 156, 156)),
        ("I", "pgm", 300, (1, 1, 1)),
    ],
)
def test_odd_modes(tmp_path, mode, suffix, value, expected):
    uniform(mode, value).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert image.mode == mode  # or the case would test nothing
    pixels = decode(tmp_path / f"a.{suffix}", 4, 5)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 5, 3)
    assert (pixels == expected).all()


@pytest.mark.parametrize("mode, value", [("I", 70000), ("I", -1), ("F", 0.5)])
def test_numbers_without_a_range_are_refused_rather_than_clipped(tmp_path, mode, value):
    uniform(mode, value).save(tmp_path / "a.tiff")
    with pytest.raises(DatasetError, match=rf"a\.tiff.*mode {mode} with values.*8 or 16 bits"):
        decode(tmp_path / "a.tiff", 4, 4)


@pytest.mark.parametrize("mode, value", [("I", 70000), ("I", -1), ("F", 0.5)])
def test_check_calls_an_error_what_cannot_be_packed(sysu, mode, value):
    path = sysu / "cam1/0001/0001.jpg"
    uniform(mode, value).save(path, "TIFF")
    with pytest.raises(DatasetError, match=f"mode {mode}"):
        decode(path, 4, 4)
    found = f"mode {mode} with values {value} to {value}, expected whole numbers of 8 or 16 bits"
    assert check("sysu", sysu).defects.defect[0] == found
    assert check("sysu", sysu).errors == 1


def test_decode_resizes_like_pillow(pictures):
    root, _ = pictures
    with Image.open(root / "1.jpg") as image:
        expected = np.asarray(image.resize((8, 16), Image.Resampling.LANCZOS))
        assert (decode(root / "1.jpg", *image.size[::-1]) == np.asarray(image)).all()
    assert (decode(root / "1.jpg", 16, 8) == expected).all()


def test_packed_pixels_are_the_decoded_ones(pictures, cache, monkeypatch):
    root, index = pictures
    monkeypatch.setattr(images, "_CHUNK", 3)
    pixels = pack(index, root, 16, 8)
    assert len(pixels) == 7
    rows = np.array([6, 0, 0, 3, 1, 5, 4, 2])
    taken = pixels.take(rows)
    assert (taken.dtype, taken.shape) == (torch.uint8, (8, 16, 8, 3))
    for row, picture in zip(rows, taken.numpy(), strict=True):
        assert (picture == decode(root / index.path[row], 16, 8)).all()
    (file,) = cache.iterdir()
    assert (np.load(file, mmap_mode="r")[rows] == taken.numpy()).all()
    assert file.stat().st_mode & 0o777 == 0o644


def test_packed_once(pictures, monkeypatch):
    root, index = pictures
    first = pack(index, root, 16, 8)
    monkeypatch.setattr(images, "decode", None)
    assert pack(index, root, 16, 8).take(np.arange(7)).equal(first.take(np.arange(7)))


def test_a_changed_picture_is_packed_again(pictures):
    root, index = pictures
    for colour, time in ((10, 1000), (200, 1001)):  # the files have the same size
        Image.new("RGB", (8, 16), (colour,) * 3).save(root / "1.jpg", "BMP")
        os.utime(root / "1.jpg", (time, time))
        assert (pack(index, root, 16, 8).take(np.array([0])) == colour).all()


def test_what_names_a_packed_file(pictures, tmp_path_factory):
    root, index = pictures
    file = packed_file(index, root, 16, 8)
    other_labels = index.assign(identity=1, split="test")
    assert packed_file(other_labels, root, 16, 8) == file  # RegDB's trials differ in no picture
    copy = shutil.copytree(root, tmp_path_factory.mktemp("copy") / "set")
    others = {
        packed_file(index, root, 8, 16),
        packed_file(index, root, 16, 9),
        packed_file(index[1:], root, 16, 8),
        packed_file(index[::-1], root, 16, 8),
        packed_file(index, copy, 16, 8),
    }
    assert len(others - {file}) == 5


def test_fingerprint_means_the_same_elsewhere(pictures, tmp_path_factory):
    root, index = pictures
    copy = tmp_path_factory.mktemp("copy")
    for path in index.path:
        shutil.copyfile(root / path, copy / path)  # with its own times
    name = fingerprint(index, root)
    assert fingerprint(index, copy) == name
    assert fingerprint(index.assign(split="test"), root) != name
    with (copy / "1.jpg").open("ab") as file:
        file.write(b"\0")
    assert fingerprint(index, copy) != name


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "folder"])
def test_a_damaged_picture_is_named_and_nothing_cached(pictures, cache, monkeypatch, damage):
    root, index = pictures
    monkeypatch.setattr(images, "_CHUNK", 2)
    path = root / index.path[5]
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        broken = {"empty": b"", "truncated": content[: len(content) // 2], "text": b"hello"}
        path.write_bytes(broken[damage])
    with pytest.raises(DatasetError, match=r"6\.jpg: cannot be read .*data check"):
        pack(index, root, 16, 8)
    assert not cache.exists() or not list(cache.iterdir())


WAITS_THEN_PACKS = """
import hashlib, sys
from pathlib import Path
import numpy as np
from reid_core.data.datasets import read
from reid_core.data.images import pack
root = Path(sys.argv[1])
index = read("sysu", root)
print("ready", flush=True)
sys.stdin.readline()
pixels = pack(index, root, 288, 144)
print(hashlib.sha256(pixels.take(np.arange(len(pixels))).numpy()).hexdigest())
"""


def test_two_processes_at_once(sysu, cache):
    command = [sys.executable, "-c", WAITS_THEN_PACKS, str(sysu)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    index = read("sysu", sysu)
    expected = np.stack([decode(sysu / path, 288, 144) for path in index.path])
    assert printed == {hashlib.sha256(expected).hexdigest()}
    assert list(cache.iterdir()) == [packed_file(index, sysu, 288, 144)]


TAKES_AND_MEASURES = """
import sys
from pathlib import Path
import numpy as np
from reid_core.data.images import PackedImages

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

pixels = PackedImages(Path(sys.argv[1]))
rng = np.random.default_rng(0)
pixels.take(rng.integers(len(pixels), size=64))
before = peak = resident()
for _ in range(2 * len(pixels) // 64):
    pixels.take(rng.integers(len(pixels), size=64))
    peak = max(peak, resident())
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to measure memory by")
@pytest.mark.parametrize("height, width", [(64, 32), (288, 144)])
def test_memory_stays_far_below_the_file(tmp_path, height, width):
    path = tmp_path / "big.npy"
    count = 600_000_000 // (height * width * 3)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + count * height * width * 3)  # zeros that take no disk
    command = [sys.executable, "-c", TAKES_AND_MEASURES, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300e6


def test_a_cache_that_cannot_be_written(pictures, cache):
    root, index = pictures
    cache.write_text("in the way: even root cannot write below a file")
    with pytest.raises(DatasetError, match=r"cache: packed pictures cannot be .*REID_DATA"):
        pack(index, root, 16, 8)


def test_a_full_disk_leaves_nothing(pictures, cache, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    root, index = pictures
    monkeypatch.setattr(images.os, "fsync", full)
    with pytest.raises(DatasetError, match=r"cannot be written.*No space left.*Free"):
        pack(index, root, 16, 8)
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:40],
        lambda content: b"",
        lambda content: content + b"\0",
        lambda content: b"\0" * len(content),
        lambda content: content.replace(b"|u1", b"|i1"),
        lambda content: content.replace(b"False", b"True "),
    ],
)
def test_a_damaged_packed_file_is_no_garbage(pictures, damage):
    root, index = pictures
    pack(index, root, 16, 8)
    file = packed_file(index, root, 16, 8)
    damaged = damage(file.read_bytes())
    assert damaged != file.read_bytes()
    file.write_bytes(damaged)
    with pytest.raises(DatasetError, match=rf"{file.name}: .*delete"):
        PackedImages(file)
    with pytest.raises(DatasetError, match=rf"{file.name}: .*delete"):
        pack(index, root, 16, 8)
    file.unlink()
    assert len(pack(index, root, 16, 8)) == 7


def test_command_packs(sysu, cache, capsys):
    command = ["data", "pack", "sysu", str(sysu), "--height", "16", "--width", "8"]
    assert main(command) == 0
    said = capsys.readouterr().out
    file = packed_file(read("sysu", sysu), sysu, 16, 8)
    assert file.name in said and "0.0 MB, 36 images in" in said
    assert main(command) == 0
    assert "already packed" in capsys.readouterr().out
    file.write_bytes(file.read_bytes()[:-1])
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "delete the file" in error and len(error.splitlines()) == 1
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--height", "0"])

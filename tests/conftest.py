"""Tiny datasets in the three real layouts, the real material, and folders of the tests' own."""

import os
from pathlib import Path

# What is promised to the bit is promised of a CPU: a GPU has a part in the tests only if it is
# named, CUDA_VISIBLE_DEVICES=0. Before torch looks for one.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Tiny networks gain nothing from a second thread, and beside other work they wait for it. Processes
# that tests start, such as notebooks' kernels, inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from PIL import Image

from reid_core.data.batches import Batch
from reid_core.data.paperdolls import draw_sysu
from reid_core.paths import ROOT


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory):
    """No test touches a user's data or results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REID_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setenv("REID_RESULTS", str(tmp_path_factory.mktemp("results")))
        yield


@pytest.fixture(scope="session")
def batch() -> Batch:
    """Four identities, each a pattern that its two pictures of both modalities share with noise."""
    torch.manual_seed(1)
    pattern = torch.randn(4, 1, 48, 24).repeat_interleave(2, 0)
    visible, infrared = (pattern + 0.3 * torch.randn(8, 3, 48, 24) for _ in range(2))
    return Batch(visible, infrared, torch.arange(4).repeat_interleave(2))


@pytest.fixture(scope="session")
def tiny_dolls(tmp_path_factory) -> Path:
    """PaperDolls in SYSU-MM01's layout, for the `smoke` profile: 4 + 4 identities train, 4 test."""
    root = tmp_path_factory.mktemp("dolls")
    draw_sysu(root, train=4, val=4, test=4, images=2, height=48, width=24, workers=1)
    return root


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real pictures and lists, which are never committed."""
    folder = Path(os.environ.get("REID_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip(f"no real material in {folder}; name its folder with REID_REAL_DATA")
    return folder


def save_image(path: Path, mode: str = "RGB", image_format: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 16)).save(path, image_format)


def save_list(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture
def sysu(tmp_path) -> Path:
    """Identities 1 (train), 2 (val), 3 (test) under six cameras, two images each."""
    for camera in range(1, 7):
        for identity in (1, 2, 3):
            for frame in (1, 2):
                save_image(tmp_path / f"cam{camera}/{identity:04d}/{frame:04d}.jpg")
    for split, identity in (("train", 1), ("val", 2), ("test", 3)):
        save_list(tmp_path / f"exp/{split}_id.txt", [str(identity)])
    return tmp_path


@pytest.fixture
def regdb(tmp_path) -> Path:
    """Identities 1, 2, 10, 11, two images on each side; training has 1 and 2 in odd trials."""
    for folder in ("Visible", "Thermal"):
        for identity in (1, 2, 10, 11):
            for name in ("b", "a"):
                save_image(tmp_path / folder / f"{identity}/{name}_{identity}.bmp")
        for trial in range(1, 11):
            halves = [(1, 2), (10, 11)] if trial % 2 else [(10, 11), (1, 2)]
            for split, half in zip(("train", "test"), halves, strict=True):
                lines = [
                    f"{folder}/{identity}/{name}_{identity}.bmp {label}"
                    for label, identity in enumerate(half)
                    for name in ("b", "a")
                ]
                save_list(tmp_path / f"idx/{split}_{folder.lower()}_{trial}.txt", lines)
    return tmp_path


@pytest.fixture
def llcm(tmp_path) -> Path:
    """Training identities 1 and 2 under cameras 4 and 5; test identity 3 under all, with its
    originals in ``vis`` and ``nir``, and the empty ``test_nir/cam3`` of the real dataset."""
    for folder in ("vis", "nir"):
        lines = []
        for identity in (1, 2, 3):
            for camera in (4, 5):
                name = f"{identity:04d}_c{camera:02d}_s1_f2_{folder}.jpg"
                save_image(tmp_path / f"{folder}/{identity:04d}/{name}")
                if identity < 3:
                    lines.append(f"{folder}/{identity:04d}/{name} {identity - 1}")
        save_list(tmp_path / f"idx/train_{folder}.txt", lines)
        for camera in range(1, 10):
            name = f"0003_c{camera:02d}_s1_f2_{folder}.jpg"
            save_image(tmp_path / f"test_{folder}/cam{camera}/0003/{name}")
    save_list(tmp_path / "idx/test_id.txt", ["3"])
    (tmp_path / "test_nir/cam3/0003/0003_c03_s1_f2_nir.jpg").unlink()
    (tmp_path / "test_nir/cam3/0003").rmdir()
    return tmp_path

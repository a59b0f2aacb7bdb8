"""Super-resolved training pictures (§4.3.1, fprnet): an SRCNN learns from one visible camera, and
what it makes of every visible *training* picture takes that picture's place.

A picture is resized to a square, enlarged by two and resized to what the run trains on. The
paper's square is 128 pixels for pictures 288 high; here it keeps that proportion to the run's.
Pictures that are measured on, and infrared ones, stay as they are. The paper takes one of four
cameras "for reconstruction", which may also mean that the pictures of the others stay too.

The paper prints no loss and no target. Here the target is a crop of the picture itself, the input
that crop reduced by the network's factor, the loss their mean squared difference.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from PIL import Image
from torch.nn import functional

from reid_core import checkpoint, records
from reid_core.config import RunConfig
from reid_core.data.images import PackedImages, decode, fingerprint, pack_pictures, packed_file
from reid_core.data.index import DatasetError
from reid_core.layers.superres import SRCNN, bicubic, psnr, super_resolve, to_ycbcr
from reid_core.paths import runs_folder, shown, write_atomically, write_json

MOST_PICTURES = 2000  # to learn from, kept in memory
HELD_OUT = 10  # one person in so many is held out
MOST_CROPS = 256  # of the people held out
SIDE = 128 / 288  # of the network's input, to the height of the run's pictures (§4.3.1, §4.2)
_BATCH = 32  # pictures enlarged at a time


@dataclass(frozen=True)
class Recipe:
    """How the network is built and trained. Defaults are ours where they differ from the paper's:
    with its SGD and dropout (``PRINTED``) 800 steps end many dB below plain bicubic interpolation,
    which notebook 16 shows."""

    steps: int = 800  # "800 iterations"; perhaps epochs, for which the paper has the same word
    batch: int = 32
    crop: int = 32  # pixels of the target; 33 for Dong et al.
    lr: float = 1e-3
    optimizer: str = "adam"  # sgd in the paper
    dropout: float = 0.0  # 0.5 in the paper
    start: str = "image"  # see SRCNN; not printed
    shuffle: int = 1  # see SRCNN; 2 in Table 7


PRINTED = Recipe(optimizer="sgd", dropout=0.5, start="random", shuffle=2)


def recipe_of(run: RunConfig) -> Recipe:
    """``run.superres_reading``, with the run's steps."""
    recipe = PRINTED if run.superres_reading == "printed" else Recipe()
    return replace(recipe, steps=run.superres_steps)


@dataclass(frozen=True)
class Lessons:
    """Luminances, (H, W) float32 from 0 to 1, each in its file's own size."""

    camera: int
    learn: list[torch.Tensor]
    held_out: list[torch.Tensor]  # of other people


def lessons(index: pd.DataFrame, root: Path, crop: int, seed: int) -> Lessons:
    """Pictures of the training split's visible camera that has most of them (which one does not
    matter, says the paper), no more than memory should hold, and none smaller than ``crop``. Every
    tenth person is held out.

    Raises
    ------
    DatasetError
        No picture, or no two people's, are large enough.
    """
    visible = index[(index["split"] == "train") & (index["modality"] == "visible")]
    camera = int(visible["camera"].mode().min())
    own = visible[visible["camera"] == camera]
    own = own.sample(min(len(own), MOST_PICTURES), random_state=seed).sort_index()
    people = np.random.default_rng(seed).permutation(own["identity"].unique())
    held = set(people[: -(-len(people) // HELD_OUT)])
    chosen: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for path, identity in zip(own["path"], own["identity"], strict=True):
        pixels = torch.from_numpy(decode(root / path).copy()).permute(2, 0, 1)[None]
        if min(pixels.shape[2:]) >= crop:
            chosen[identity in held].append(to_ycbcr(pixels.float() / 255)[0, 0])
    if not all(chosen.values()):
        raise DatasetError(
            f"{shown(root)}: found {len(chosen[False])} pictures to learn super-resolution from "
            f"and {len(chosen[True])} of held-out people under camera {camera} of at least {crop} "
            "pixels on both sides, expected some of both; lower `crop`."
        )
    return Lessons(camera, chosen[False], chosen[True])


def crops(
    pictures: Sequence[torch.Tensor], count: int, size: int, random: np.random.Generator
) -> torch.Tensor:
    """``count`` random squares (count, 1, size, size) of random pictures."""
    squares = []
    for number in random.integers(len(pictures), size=count):
        picture = pictures[number]
        top, left = (random.integers(side - size + 1) for side in picture.shape)
        squares.append(picture[top : top + size, left : left + size])
    return torch.stack(squares)[:, None]


def train_srcnn(
    pictures: Sequence[torch.Tensor], recipe: Recipe, seed: int, device: torch.device
) -> tuple[SRCNN, pd.DataFrame]:
    """A network trained on crops of ``pictures``, in evaluation mode, and its history: ``step``,
    the mean ``loss`` since the row before, ``seconds``. The same seed gives the same network."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network = SRCNN(recipe.shuffle, recipe.dropout, recipe.start).to(device)
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[recipe.optimizer]
    optimizer = kind(network.parameters(), recipe.lr)
    history, losses, begun = [], [], time.perf_counter()
    for step in range(1, recipe.steps + 1):
        target = crops(pictures, recipe.batch, recipe.crop, random).to(device)
        loss = functional.mse_loss(network(bicubic(target, 1 / network.factor)), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if step % max(1, recipe.steps // 8) == 0 or step == recipe.steps:
            seconds = time.perf_counter() - begun
            row = {"step": step, "loss": torch.stack(losses).mean().item()}
            history.append(row | {"seconds": round(seconds, 1)})
            losses.clear()
            print(
                f"super-resolution, step {step:>4}/{recipe.steps}  loss {row['loss']:.5f}  "
                f"{seconds:.0f} s",
                flush=True,
            )
    return network.eval(), pd.DataFrame(history)


@torch.no_grad()
def compare(
    network: SRCNN, pictures: Sequence[torch.Tensor], crop: int, seed: int
) -> dict[str, float]:
    """Mean PSNR of the luminance in dB on crops of ``pictures``: of bicubic interpolation, and of
    ``network``."""
    place = next(network.parameters()).device
    count = min(MOST_CROPS, 4 * len(pictures))
    target = crops(pictures, count, crop, np.random.default_rng([seed, 1])).to(place)
    small = bicubic(target, 1 / network.factor)
    ways = {"bicubic": bicubic(small, network.factor), "srcnn": network(small)}
    return {name: psnr(made, target).mean().item() for name, made in ways.items()}


def folder_of(run: RunConfig) -> Path:
    """``results/runs/<profile>/<dataset>/superres/<reading>-seed<k>[-trial<t>]``; all methods of a
    seed share it."""
    place = runs_folder() / run.profile / run.dataset / "superres"
    return place / f"{run.superres_reading}-{Path(run.folder_name()).name}"


def obtain(run: RunConfig, index: pd.DataFrame, root: Path, device: torch.device) -> SRCNN:
    """The run's network, trained first where it is not there yet. Its folder has ``weights.pt``,
    ``history.csv`` and, written last, ``metrics.json`` with the PSNR on held-out people.

    Raises
    ------
    RunError
        The folder's network is of another recipe or of other data, or damaged.
    """
    recipe, folder = recipe_of(run), folder_of(run)
    asked = {"config": asdict(recipe) | {"seed": run.seed}, "data": fingerprint(index, root)}
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # a second run waits for the first one's network
        if not (folder / "metrics.json").exists():
            _train_into(folder, asked, recipe, index, root, device)
        found = records.read_json(folder / "metrics.json")
        if any(found[key] != value for key, value in asked.items()):
            raise records.RunError(
                f"{shown(folder)}: found a network of {found['config']}, data {found['data']}, "
                f"asked for {asked['config']}, data {asked['data']}. Delete the folder to train it "
                "anew."
            )
    network = SRCNN(recipe.shuffle, recipe.dropout, recipe.start).to(device)
    with checkpoint.refused(folder / "weights.pt", "Delete its folder to train it anew."):
        network.load_state_dict(checkpoint.read(folder / "weights.pt", device))
    return network.eval()


def _train_into(
    folder: Path,
    asked: dict,
    recipe: Recipe,
    index: pd.DataFrame,
    root: Path,
    device: torch.device,
) -> None:
    print(f"super-resolution: training into {shown(folder)}, once", flush=True)
    known = lessons(index, root, recipe.crop, asked["config"]["seed"])
    network, history = train_srcnn(known.learn, recipe, asked["config"]["seed"], device)
    measured = compare(network, known.held_out, recipe.crop, asked["config"]["seed"])
    checkpoint.write(folder / "weights.pt", network.state_dict())
    write_atomically(folder / "history.csv", history.to_csv(index=False))
    content = asked | {"psnr": measured, "camera": known.camera}
    content["provenance"] = records.provenance(device)
    write_json(folder / "metrics.json", content)
    print("super-resolution, PSNR: " + ", ".join(f"{k} {v:.2f} dB" for k, v in measured.items()))


def enlarge(network: SRCNN, paths: Sequence[Path], side: int) -> torch.Tensor:
    """The pictures of ``paths`` as ``side`` × ``side``, super-resolved: (n, f·side, f·side, 3)
    uint8 with f = ``network.factor``."""
    place = next(network.parameters()).device
    small = torch.from_numpy(np.stack([decode(path, side, side) for path in paths])).to(place)
    large = super_resolve(network, small.permute(0, 3, 1, 2).float() / 255)
    return (255 * large).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


class Replaced:
    """``pixels``, read by row, but for ``rows``, whose pictures are those of ``others``."""

    def __init__(self, pixels: PackedImages, rows: np.ndarray, others: PackedImages):
        self.pixels, self.others = pixels, others
        self._place = np.full(len(pixels), -1)
        self._place[rows] = np.arange(len(rows))

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """The pictures of ``rows``: (n, H, W, 3) uint8."""
        batch, place = self.pixels.take(rows), self._place[rows]
        changed = np.flatnonzero(place >= 0)
        if len(changed):
            batch[changed] = self.others.take(place[changed])
        return batch


def replace_visible(
    run: RunConfig,
    index: pd.DataFrame,
    training: pd.DataFrame,
    root: Path,
    pixels: PackedImages,
    device: torch.device,
) -> Replaced:
    """``pixels`` of ``index`` with the visible pictures among its rows ``training`` super-resolved:
    once, into a file beside the packed ones."""
    network = obtain(run, index, root, device)
    chosen = training[training["modality"] == "visible"]
    digest = hashlib.sha256()
    for weight in network.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    plain = packed_file(chosen, root, run.height, run.width)
    target = plain.with_name(f"{plain.stem}-superres-{digest.hexdigest()[:16]}.npy")
    paths = [root / path for path in chosen["path"]]
    if not target.exists():
        print(f"super-resolution: {len(paths)} training pictures, once", flush=True)
        pictures = _resized(network, paths, run.height, run.width)
        pack_pictures(target, pictures, len(paths), run.height, run.width)
    return Replaced(pixels, chosen.index.to_numpy(), PackedImages(target))


def _resized(
    network: SRCNN, paths: Sequence[Path], height: int, width: int
) -> Iterator[np.ndarray]:
    side = round(SIDE * height)
    shown_at = max(1, len(paths) // _BATCH // 4) * _BATCH
    for start in range(0, len(paths), _BATCH):
        for picture in enlarge(network, paths[start : start + _BATCH], side).numpy():
            whole = Image.fromarray(picture)
            yield np.asarray(whole.resize((width, height), Image.Resampling.LANCZOS))
        if start and start % shown_at == 0:
            print(f"super-resolution: {start} of {len(paths)}", flush=True)

"""A window on finished runs: pick a run, a search and a query, and see its ranked gallery, with
what the camera rule leaves out.

``Browser`` is a set of ipywidgets and what follows from their values; ``show`` puts them into a
notebook. The picture below them is a plain PNG, so that a saved notebook keeps the last one.
"""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import DisplayHandle, Image, display
from matplotlib.figure import Figure

from reid_core.data.datasets import read
from reid_core.data.images import decode, fingerprint
from reid_core.figures import NEUTRAL, RIGHT, WRONG, framed
from reid_core.paths import results_folder, shown
from reid_core.records import RunError, read_json
from reid_core.retrieval.candidates import IGNORED, TestSet, prepare
from reid_core.retrieval.features import settings_of
from reid_core.retrieval.lists import HEIGHT, WIDTH
from reid_core.retrieval.protocols import Ranking, ranking

COLUMNS = 10  # answers in a line of the figure
GRAY = "#767676"
EVERYONE = "everyone"
_DPI = 110


def finished_runs(profile: str, dataset: str) -> dict[str, Path]:
    """The folders of this machine's finished runs, by "method/variant, seed<k>". Committed records
    have no features and are not among them.

    Raises
    ------
    RunError
        There is none; names the command that makes one.
    """
    root = results_folder() / "runs" / profile / dataset
    done = sorted(path.parent for path in root.glob("*/*/*/metrics.json"))
    folders = [folder for folder in done if (folder / "features.npy").is_file()]
    if not folders:
        raise RunError(
            f"{shown(root)}: found no finished run with its features, expected one at least. Train "
            f"one: python -m reid_core train baselines/two-stream --profile {profile} "
            f"--dataset {dataset}"
        )
    return {"{}/{}, {}".format(*folder.parts[-3:]): folder for folder in folders}


class Browser:
    """The ranked galleries of a profile's finished runs on a dataset.

    Every attribute that is a widget may be set from code too: what is shown follows.

    Parameters
    ----------
    profile, dataset : str
    root : Path
        The dataset's folder.
    first : str
        "method/variant": whose run is shown first, where it is finished.

    Raises
    ------
    RunError
        No run is finished, or a run's features are of other pictures than those in ``root``.
    """

    def __init__(self, profile: str, dataset: str, root: Path, first: str = ""):
        self.about, self.root = f"{dataset}, {profile}", root
        self.folders = finished_runs(profile, dataset)
        self.images = {name: _images(folder, root) for name, folder in self.folders.items()}
        self.settings = {_name(setting): setting for setting in settings_of(dataset, root)}
        self.prepared = lru_cache(maxsize=4)(self._prepare)  # features of four runs at most
        self.run = _control(widgets.Dropdown, "run", options=list(self.folders))
        self.search = _control(widgets.Dropdown, "search", options=list(self.settings))
        self.trial = _control(widgets.IntSlider, "trial", min=1, max=10)
        self.person = _control(widgets.Dropdown, "person", options=[EVERYONE])
        self.query = _control(widgets.SelectionSlider, "query", options=[("", 0)])
        self.count = _control(widgets.IntSlider, "answers", min=5, max=50, step=5, value=COLUMNS)
        self.previous, self.next = (widgets.Button(description=d) for d in ("◀ previous", "next ▶"))
        self.run.value = next((name for name in self.folders if name.startswith(f"{first},")),
                              self.run.value)  # fmt: skip
        self._handle: DisplayHandle | None = None
        self._settling = False
        self._settle()
        for control in (self.run, self.search, self.trial, self.person, self.query, self.count):
            control.observe(self._changed, "value")
        self.previous.on_click(lambda _: self._step(-1))
        self.next.on_click(lambda _: self._step(+1))

    @property
    def test(self) -> TestSet:
        """The chosen run's test set under the chosen search."""
        return self.prepared(self.run.value, self.search.value)

    @property
    def ranking(self) -> Ranking:
        """How the chosen query ranks the gallery."""
        return ranking(self.test, self.query.value, self.trial.value)

    def figure(self) -> Figure:
        """The query and its best answers."""
        images, found = self.images[self.run.value], self.ranking
        number = f", trial {self.trial.value}" if self.trial.max > 1 else ""
        title = f"{self.run.value} ({self.about})\n{self.search.value}{number}: "
        title += f"{len(found.rows)} pictures answer\n{_in_words(found, self.test.protocol)}"
        rows = [self.query.value, *found.rows[: self.count.value]]
        pictures = [decode(self.root / images["path"][row], HEIGHT, WIDTH) for row in rows]
        return ranked_gallery(pictures, images.loc[rows], found, title)

    def show(self) -> None:
        """Displays the controls and the figure, which follows them from then on."""
        step = widgets.HBox([self.query, self.previous, self.next])
        choice = [widgets.HBox([self.run, self.search, self.trial])]
        display(widgets.VBox([*choice, widgets.HBox([self.person, self.count]), step]))
        self._handle = display(self.picture(), display_id=True)

    def picture(self) -> Image:
        """The figure as a PNG."""
        file = io.BytesIO()
        self.figure().savefig(file, dpi=_DPI, metadata={"Software": None})
        return Image(file.getvalue())

    def _prepare(self, run: str, search: str) -> TestSet:
        images = self.images[run]
        labels = [images[name] for name in ("identity", "camera", "frame", "modality")]
        setting = {"shots": 1, "gallery": "agw", "permutations": None} | self.settings[search]
        features = np.load(self.folders[run] / "features.npy")
        return prepare(features, *labels, **setting, trials=10)

    def _step(self, by: int) -> None:
        last = len(self.query.options) - 1
        self.query.index = min(max(self.query.index + by, 0), last)

    def _changed(self, _: Any) -> None:
        if self._settling:  # which sets other controls' values
            return
        self._settling = True
        try:
            self._settle()
        finally:
            self._settling = False
        if self._handle is not None:
            self._handle.update(self.picture())

    def _settle(self) -> None:
        """Offers what the run and the search have; what is chosen stays where it is offered."""
        queries = self.test.queries
        self.trial.max = len(self.test.galleries)
        self.trial.disabled = self.trial.max == 1
        _offer(self.person, [EVERYONE, *sorted(set(queries["identity"].tolist()))])
        if self.person.value != EVERYONE:
            queries = queries[queries["identity"] == self.person.value]
        labels = [
            f"{number} of {len(queries)}: id {row.identity}, cam {row.camera}"
            for number, row in enumerate(queries.itertuples(), 1)
        ]
        _offer(self.query, list(zip(labels, queries.index.tolist(), strict=True)))


def ranked_gallery(
    pictures: Sequence[np.ndarray], images: pd.DataFrame, found: Ranking, title: str
) -> Figure:
    """A query and its best answers, as `figures.top_lists` draws them, with what the camera rule
    leaves out in gray where it would have stood.

    Parameters
    ----------
    pictures : the query's and then the answers', each (H, W, 3) uint8
    images : DataFrame
        ``identity`` and ``camera`` of each of ``pictures``.
    found : Ranking
        Of the query; may be longer than ``pictures``.
    """
    lines = max(1, -(-(len(pictures) - 1) // COLUMNS))
    height = 2.05 * lines + 1.15  # inches
    figure = Figure(figsize=(10.4, height))
    figure.suptitle(title, fontsize=11, y=1 - 0.08 / height, va="top", linespacing=1.4)
    edges = {"left": 0.01, "right": 0.99, "bottom": 0.3 / height, "top": 1 - 1.1 / height}
    cells = figure.add_gridspec(lines, COLUMNS + 1, wspace=0.12, hspace=0.32, **edges)
    identities, cameras = images["identity"].tolist(), images["camera"].tolist()
    for number, (picture, identity, camera) in enumerate(
        zip(pictures, identities, cameras, strict=True)
    ):
        line, column = divmod(number - 1, COLUMNS) if number else (0, -1)
        axis = figure.add_subplot(cells[line, column + 1])
        if number == 0:
            look, mark = (NEUTRAL, "solid"), "query"
        elif not found.rank[number - 1]:
            look, mark = (GRAY, "dotted"), "ignored"
            picture = (0.3 * picture + 0.7 * 255).astype(np.uint8)
        else:
            right = found.right[number - 1]
            look = (RIGHT, "solid") if right else (WRONG, "dashed")
            mark = f"{found.rank[number - 1]} {'✓' if right else '✗'}"
        framed(axis, picture, *look, f"{mark}\nid {identity}, cam {camera}", 8)
        if number:
            axis.set_xlabel(f"{found.similarity[number - 1]:.3f}", fontsize=8, labelpad=2)
    figure.supxlabel(
        "green, solid, ✓: same person · red, dashed, ✗: another person · gray, dotted: does not "
        "exist for this query · below: cosine", fontsize=8, y=0.06 / height, va="bottom",
    )  # fmt: skip
    return figure


def _in_words(found: Ranking, protocol: str) -> str:
    """A ranking's scores, and what it leaves out."""
    left_out = int((found.rank == 0).sum())
    reason = f"{left_out} ignored: {IGNORED[protocol]}" if left_out else "none ignored"
    if not found.right.any():
        return f"no right answer in this gallery: the query does not count · {reason}"
    first = found.rank[found.right][0]
    return (
        f"AP {100 * found.average_precision:.1f} % · INP "
        f"{100 * found.inverse_negative_penalty:.1f} % · {found.right.sum()} right, the first at "
        f"rank {first} (for CMC {found.place:.0f}) · {reason}"
    )


def _images(folder: Path, root: Path) -> pd.DataFrame:
    """The pictures that a finished run was measured on, in the order of its features."""
    params = read_json(folder / "params.json")
    config = {"trial": 1, "evaluate_on": "test"} | params["config"]
    index = read(config["dataset"], root, config["trial"])
    if fingerprint(index, root) != params["data"]:
        raise RunError(
            f"{shown(folder)}: its features are of other pictures than {shown(root)} has. Name "
            "the dataset's folder that it was trained on, or move the run's folder elsewhere."
        )
    return index[index["split"] == config["evaluate_on"]].reset_index(drop=True)


def _name(setting: dict[str, Any]) -> str:
    """Of one of `settings_of`, in words."""
    gallery = f", {setting['gallery']} gallery" if "gallery" in setting else ""
    several = f", {setting['shots']} shots" if setting.get("shots", 1) > 1 else ""
    return setting["mode"] + gallery + several


def _control(kind: type, label: str, **settings: Any) -> Any:
    """A widget that tells its new value when the mouse lets go of it."""
    late = {"continuous_update": False} if "continuous_update" in kind.class_trait_names() else {}
    return kind(description=label, style={"description_width": "4.5em"}, **late, **settings)


def _offer(control: Any, options: list) -> None:
    """New ``options``; the chosen one stays chosen where it is among them."""
    if list(control.options) == options:
        return
    chosen = control.value
    control.options = options
    if chosen in [option[1] if isinstance(option, tuple) else option for option in options]:
        control.value = chosen

"""A window on finished runs: pick a run, a search and a query, and see its ranked gallery, with
what the camera rule leaves out.

``Browser`` is a set of ipywidgets and what follows from their values; ``show`` puts them into a
notebook. The picture below them is a plain PNG, so that a saved notebook keeps the last one.
"""

import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import DisplayHandle, Image, display
from matplotlib.figure import Figure

from reid_core.data.datasets import read
from reid_core.data.images import decode, fingerprint
from reid_core.paths import runs_folder, shown
from reid_core.ranked import COLUMNS, in_words, ranked_gallery
from reid_core.records import DEFAULTS, RunError, read_json
from reid_core.retrieval.candidates import LABELS, TestSet, prepare
from reid_core.retrieval.features import read_features, settings_of
from reid_core.retrieval.lists import HEIGHT, WIDTH
from reid_core.retrieval.protocols import Ranking, ranking

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
    root = runs_folder() / profile / dataset
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
        "method/variant", or the run as the control names it, "method/variant, seed0": which is
        shown first, where it is finished.

    Raises
    ------
    RunError
        No run is finished, or a run's features are of other pictures than those in ``root``.
    """

    def __init__(self, profile: str, dataset: str, root: Path, first: str = ""):
        self.about, self.root = f"{dataset}, {profile}", root
        self.folders = finished_runs(profile, dataset)
        self.images = _images(self.folders, root)
        self.settings = {_name(setting): setting for setting in settings_of(dataset, root)}
        self.prepared = lru_cache(maxsize=4)(self._prepare)  # features of four runs at most
        self.run = _control(widgets.Dropdown, "run", 34, options=list(self.folders))
        self.search = _control(widgets.Dropdown, "search", 34, options=list(self.settings))
        self.person = _control(widgets.Dropdown, "person", 17, options=[EVERYONE])
        self.trial = _control(widgets.IntSlider, "trial", 24, min=1, max=10)
        self.count = _control(
            widgets.IntSlider, "answers", 26, min=5, max=50, step=5, value=2 * COLUMNS
        )
        self.query = _control(widgets.SelectionSlider, "query", 48, options=[("", 0)])
        self.previous, self.next = (
            widgets.Button(description=text, layout={"width": "9em", "margin": "2px 0 2px 12px"})
            for text in ("◀ previous", "next ▶")
        )
        wanted = [name for name in self.folders if f"{name},".startswith(f"{first},")]
        self.run.value = next(iter(wanted), self.run.value)
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

    def figure(self, query: int | None = None) -> Figure:
        """The chosen query, or another one (a row of `test`), and its best answers."""
        query = self.query.value if query is None else query
        images, found = self.images[self.run.value], ranking(self.test, query, self.trial.value)
        number = f", trial {self.trial.value}" if self.trial.max > 1 else ""
        title = f"{self.run.value} ({self.about})\n{self.search.value}{number}: "
        title += f"{(found.rank > 0).sum()} pictures answer\n{in_words(found, self.test.protocol)}"
        rows = [query, *found.rows[: self.count.value]]
        pictures = [decode(self.root / images["path"][row], HEIGHT, WIDTH) for row in rows]
        return ranked_gallery(pictures, images.loc[rows], found, title)

    def picture(self, query: int | None = None) -> Image:
        """`figure` as a PNG."""
        file, figure = io.BytesIO(), self.figure(query)
        figure.savefig(file, dpi=_DPI, metadata={"Software": None})
        return Image(file.getvalue(), alt=figure.get_suptitle())

    def show(self) -> None:
        """Displays the controls and the figure, which follows them from then on."""
        lines = [self.run, self.search], [self.person, self.trial, self.count]
        lines += ([self.query, self.previous, self.next],)
        display(widgets.VBox([widgets.HBox(line) for line in lines]))
        self._handle = display(self.picture(), display_id=True)

    def _prepare(self, run: str, search: str) -> TestSet:
        images = self.images[run]
        labels = [images[name] for name in LABELS]
        features = read_features(self.folders[run] / "features.npy", len(images))
        return prepare(features, *labels, **self.settings[search])

    def _step(self, by: int) -> None:
        last = len(self.query.options) - 1
        self.query.index = min(max(self.query.index + by, 0), last)

    def _changed(self, change: Any) -> None:
        if self._settling:  # which sets other controls' values
            return
        self._settling = True
        try:
            asked = self.query.value
            self._settle()
            if change.owner is self.run:
                self._ask(self.images[change.old]["path"][asked])
        finally:
            self._settling = False
        if self._handle is not None:
            self._handle.update(self.picture())

    def _ask(self, path: str) -> None:
        """Chooses the query of that picture, in whichever row another trial of RegDB has it; the
        first query where it is none."""
        rows = [row for _, row in self.query.options]
        paths = self.images[self.run.value]["path"][rows]
        self.query.value = next(iter(paths.index[paths == path]), rows[0])

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


def _images(folders: Mapping[str, Path], root: Path) -> dict[str, pd.DataFrame]:
    """Of each finished run the pictures that it was measured on, in the order of its features."""
    indexes: dict[int, tuple[pd.DataFrame, str]] = {}  # one for each of RegDB's trials
    images = {}
    for name, folder in folders.items():
        params = read_json(folder / "params.json")
        config = DEFAULTS | params["config"]
        trial = config["trial"]
        if trial not in indexes:
            index = read(config["dataset"], root, trial)
            indexes[trial] = index, fingerprint(index, root)
        index, content = indexes[trial]
        if content != params["data"]:
            raise RunError(
                f"{shown(folder)}: its features are of other pictures than {shown(root)} has. Name "
                "the dataset's folder that it was trained on, or move the run's folder elsewhere."
            )
        images[name] = index[index["split"] == config["evaluate_on"]].reset_index(drop=True)
    return images


def _name(setting: dict[str, Any]) -> str:
    """Of one of `settings_of`, in words."""
    gallery = f", {setting['gallery']} gallery" if "gallery" in setting else ""
    several = f", {setting['shots']} shots" if setting.get("shots", 1) > 1 else ""
    return setting["mode"] + gallery + several


def _control(kind: type, label: str, width: int, **settings: Any) -> Any:
    """A widget, ``width`` letters wide, that tells its new value when the mouse lets go of it."""
    late = {"continuous_update": False} if "continuous_update" in kind.class_trait_names() else {}
    look = {"layout": {"width": f"{width}em"}, "style": {"description_width": "5em"}}
    return kind(description=label, **look, **late, **settings)


def _offer(control: Any, options: list) -> None:
    """New ``options``; the chosen one stays chosen where it is among them."""
    if list(control.options) == options:
        return
    chosen = control.value
    control.options = options
    if chosen in [option[1] if isinstance(option, tuple) else option for option in options]:
        control.value = chosen

"""Figures say what the data says, and the same data gives the same file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from reid_core import comparisons, figures, ranked
from reid_core.retrieval.lists import Lists

PICTURES = {row: np.full((8, 4, 3), 20 * row, np.uint8) for row in range(6)}
IDENTITIES = np.array([7, 7, 8, 7, 9, 9])
CAMERAS = np.array([3, 1, 1, 2, 4, 5])


def lists() -> figures.Figure:
    return ranked.top_lists(ranking([[1, 2, 3], [5, 2, -1]]), "title")


def ranking(matches: list[list[int]]) -> Lists:
    return Lists("all", PICTURES, np.array([0, 4]), np.array(matches), IDENTITIES, CAMERAS)


def test_frames_tell_right_from_wrong_by_colour_line_and_mark() -> None:
    axes = np.array(lists().axes).reshape(2, 4)
    for row, marks in enumerate(("✓✗✓", "✓✗")):
        for axis, mark in zip(axes[row][1:], marks, strict=False):
            spine = axis.spines["top"]
            expected = (figures.RIGHT, "solid") if mark == "✓" else (figures.WRONG, "dashed")
            assert (to_hex(spine.get_edgecolor()).upper(), spine.get_linestyle()) == expected
            assert mark in axis.get_title()
    assert axes[0][0].get_title() == "query\ncam 3"
    assert axes[0][2].get_title() == "2 ✗\ncam 1"
    assert not axes[1][3].get_visible(), "no match, no picture"
    np.testing.assert_array_equal(axes[1][1].images[0].get_array(), PICTURES[5])


def test_cmc_is_drawn_in_per_cent_from_rank_one() -> None:
    figure = figures.cmc_curves({"a": [0.25, 0.5, 1.0], "b": [0.1, 0.2, 0.3]}, "data, method")
    (axis,) = figure.axes
    x, y = axis.lines[0].get_data()
    assert (list(x), list(y)) == ([1, 2, 3], [25, 50, 100])
    assert axis.get_legend().get_texts()[0].get_text() == "a (rank-1 25.0 %)"
    assert axis.get_title() == "data, method"
    assert "%" in axis.get_ylabel()
    assert len({line.get_linestyle() for line in axis.lines}) == 2, "colour is not the only cue"


def test_training_curves_have_a_panel_for_each_term_of_any_run() -> None:
    first = pd.DataFrame({"epoch": [1, 2], "lr": 0.1, "identity": [2.0, 1.0], "seconds": 3.0})
    second = first.assign(triplet=[0.3, 0.2])
    figure = figures.training_curves({"a": first, "b": second}, "title")
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "mean identity loss",
        "mean triplet loss",
    ]
    assert [len(axis.lines) for axis in figure.axes] == [2, 1]


def test_training_curves_draw_the_trivial_value_and_the_spread() -> None:
    """A dashed line in the panel of the term that has one, once where two runs share it."""
    history = pd.DataFrame(
        {"epoch": [1, 2], "identity": [2.0, 1.0], "total": [2.0, 1.0], "spread": 0.5, "visits": 3.0}
    )
    trivial = {"a": {"identity": 2.5}, "b": {"identity": 2.5}}
    figure = figures.training_curves({"a": history, "b": history}, "title", trivial)
    identity, total, spread = figure.axes
    assert [line.get_ydata()[0] for line in identity.lines] == [2.0, 2.0, 2.5]
    assert (len(total.lines), len(spread.lines)) == (2, 2)
    assert spread.get_ylabel() == "spread of features"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b", "trivial"]


def test_training_curves_leave_measures_out() -> None:
    history = pd.DataFrame({"epoch": [1, 2], "total": [2.0, 1.0], "rank1": 0.1, "mAP": 0.2})
    figure = figures.training_curves({"a": history}, "title")
    assert [axis.get_ylabel() for axis in figure.axes] == ["mean total loss"]


def test_convergence_is_drawn_against_epochs_and_against_seconds() -> None:
    """In per cent, of the epochs that were measured; seconds add up over all of them."""
    rows = {"epoch": [1, 2, 3], "seconds": [5.0, 4.0, 6.0]}
    first = pd.DataFrame({**rows, "rank1": [0.1, None, 0.3], "mAP": [0.2, None, 0.4]})
    second = pd.DataFrame({**rows, "rank1": [0.5, 0.6, 0.7], "mAP": [0.1, 0.2, 0.3]})
    figure = figures.convergence({"a": first, "b": second}, "title")
    drawn = [[line.get_data() for line in axis.lines] for axis in figure.axes]
    lists = [[(list(x), [round(v) for v in y]) for x, y in axis] for axis in drawn]
    assert lists == [
        [([1, 3], [10, 30]), ([1, 2, 3], [50, 60, 70])],
        [([5, 15], [10, 30]), ([5, 9, 15], [50, 60, 70])],
        [([1, 3], [20, 40]), ([1, 2, 3], [10, 20, 30])],
        [([5, 15], [20, 40]), ([5, 9, 15], [10, 20, 30])],
    ]
    labels = [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes]
    assert labels == [
        ("", "rank-1 (%)"),
        ("", ""),
        ("epoch", "mAP (%)"),
        ("seconds of training", ""),
    ]


def test_grid_labels_rows_and_columns_and_leaves_gaps() -> None:
    grid = [[PICTURES[0], None, PICTURES[1]], [PICTURES[2], PICTURES[3], None]]
    figure = figures.picture_grid(grid, "title", ["a", "b", "c"], ["x", "y"])
    axes = np.array(figure.axes).reshape(2, 3)
    drawn = [[bool(axis.images) for axis in row] for row in axes]
    assert drawn == [[True, False, True], [True, True, False]]
    assert [axis.get_title() for axis in axes[0]] == ["a", "b", "c"], "also above a gap"
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["x", "y"]


def test_lists_of_two_runs_show_the_same_queries() -> None:
    runs = {"a": ranking([[1, 2], [5, 2]]), "b": ranking([[3, 2], [2, -1]])}
    figure = ranked.top_lists_beside(runs, "title")
    assert figure.get_suptitle() == "title"
    assert [part.get_suptitle() for part in figure.subfigs] == ["a", "b"]
    drawn = [np.array(part.axes).reshape(2, 3) for part in figure.subfigs]
    for row, query in enumerate((0, 4)):
        for axes in drawn:
            np.testing.assert_array_equal(axes[row][0].images[0].get_array(), PICTURES[query])
    titles = [[axis.get_title()[:3] for axis in axes[:, 1]] for axes in drawn]
    assert titles == [["1 ✓", "1 ✓"], ["1 ✓", "1 ✗"]]


def test_embeddings_tell_identity_by_colour_and_number_and_modality_by_mark() -> None:
    identities = np.array([7, 7, 7, 9, 9])
    modalities = np.array(["visible", "infrared", "infrared", "visible", "infrared"])
    first = np.arange(10.0).reshape(5, 2)
    figure = comparisons.embeddings({"a": first, "b": -first}, identities, modalities, "title")
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]
    for axis, plane in zip(figure.axes, (first, -first), strict=True):
        groups = axis.collections  # identity 7 visible, infrared, then 9
        places = [group.get_offsets().data.tolist() for group in groups]
        assert places == [[plane[0].tolist()], plane[1:3].tolist(), [plane[3].tolist()],
                          [plane[4].tolist()]]  # fmt: skip
        colours = [to_hex(group.get_edgecolor()[0]) for group in groups]
        assert colours[0] == colours[1] != colours[2] == colours[3]
        marks = [len(group.get_paths()[0].vertices) for group in groups]
        assert marks[0] == marks[2] != marks[1] == marks[3]
        assert [text.get_text() for text in axis.texts] == ["1", "1", "2", "2"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["visible", "infrared"]
    assert legend.get_title().get_text() == "1: id 7 · 2: id 9"


def test_histograms_mark_the_means_and_their_gap() -> None:
    near, far = np.array([0.1, 0.2, 0.3]), np.array([0.8, 0.9, 1.3])
    runs = {"a": (near, far), "b": (far, near + 0.5)}
    figure = comparisons.distance_histograms(runs, "title")
    for axis, pair in zip(figure.axes, runs.values(), strict=True):
        assert [line.get_xdata()[0] for line in axis.lines] == [part.mean() for part in pair]
        labels = [text.get_text() for text in axis.get_legend().get_texts()]
        means = [part.mean() for part in pair]
        assert labels == [f"same person: mean {means[0]:#.3g}", f"two people: mean {means[1]:#.3g}"]
        areas = [
            sum(p.get_width() * p.get_height() for p in c) for c in axis.containers if len(c) > 1
        ]
        np.testing.assert_allclose(areas, 1)
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim(), "the same scale for every run"
    # variances 0.02/3 and 0.14/3: by hand σ = √((0.00667 + 0.04667) / 2) = 0.1633
    gaps = [[text.get_text() for text in axis.texts if text.get_text()] for axis in figure.axes]
    assert gaps[0] == ["gap 0.800 = 4.9 σ"] and gaps[1][0].startswith("gap -0.300 = ")


def test_heat_lies_where_the_map_is_hot_and_the_picture_stays_elsewhere() -> None:
    heat = np.zeros((6, 3), np.float32)
    heat[4:, 2] = 1
    picture = np.full((192, 80, 3), (200, 60, 60), np.uint8)
    mixed = comparisons.overlay(picture, heat).astype(int)
    gray = round(0.299 * 200 + 0.587 * 60 + 0.114 * 60)
    assert np.abs(mixed[10, 10] - gray).max() <= 1, "cold: the gray picture"
    red, _, blue = mixed[180, 74]
    assert red - blue > 60, "hot: the map's own bright end"
    np.testing.assert_array_equal(
        comparisons.overlay(picture, np.zeros((6, 3))), np.full((192, 80, 3), gray)
    )


def test_heat_maps_have_a_row_for_the_inputs_and_one_for_each_run() -> None:
    pictures = {m: [np.full((8, 4, 3), 40 + 40 * n, np.uint8) for n in range(2)]
                for m in ("visible", "infrared")}  # fmt: skip
    pictures["infrared"][0] = pictures["infrared"][0] + 9
    maps = {"visible": np.linspace(0, 1, 64).reshape(2, 8, 4)}
    maps["infrared"] = maps["visible"][:, ::-1]
    runs = {"x/a": (pictures, maps, (3, 2)), "x/b": (pictures, maps, (6, 3))}
    figure = comparisons.heat_maps(runs, ["id 1", "id 2"], "title")
    *cells, bar = figure.axes
    assert len(cells) == 2 * 2 * 3 and not bar.images
    columns = np.array(cells).reshape(4, 3)
    assert [column[0].get_title() for column in columns] == [
        "id 1\nvisible", "id 1\ninfrared", "id 2\nvisible", "id 2\ninfrared",
    ]  # fmt: skip
    expected = [pictures[m][n] for n in range(2) for m in pictures]
    for column, picture in zip(columns, expected, strict=True):
        np.testing.assert_array_equal(column[0].images[0].get_array(), picture)
    assert [axis.get_ylabel() for axis in columns[0]] == [
        "input", "x/\na\n3 × 2 places", "x/\nb\n6 × 3 places",
    ]  # fmt: skip
    overlaid = comparisons.overlay(pictures["infrared"][1], maps["infrared"][1])
    np.testing.assert_array_equal(columns[3][2].images[0].get_array(), overlaid)


@pytest.mark.parametrize("vector", [True, False])
def test_same_data_same_bytes(tmp_path: Path, vector: bool) -> None:
    for name in ("first", "second"):
        figures.save(lists(), tmp_path / name, "figure", vector=vector)
    files = sorted(p.name for p in (tmp_path / "first").iterdir())
    assert files == (["figure.png", "figure.svg"] if vector else ["figure.png"])
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_training_curves_end_with_the_total_and_share_their_epochs() -> None:
    late = pd.DataFrame({"epoch": [1, 2], "total": [3.0, 2.0], "late": [np.nan, 1.0]})
    figure = figures.training_curves({"a": late}, "title")
    assert [axis.get_ylabel() for axis in figure.axes] == ["mean late loss", "mean total loss"]
    assert len({axis.get_xlim() for axis in figure.axes}) == 1


def test_sweep_shows_the_points_and_their_spread() -> None:
    points = pd.DataFrame({"alpha": [0.1, 12.2], "rank1": [0.3, 0.4], "mAP": [0.2, 0.5]})
    points = points.assign(rank1_std=[0.05, np.nan], mAP_std=np.nan, mode="all")
    other = points[1:].assign(mode="indoor", rank1=0.6)
    points = pd.concat([points, other])
    full, empty = figures.sweep_curves({"one": points, "two": points[:0]}, "alpha", "α", "t").axes
    (rank1, _, (bars,)), (mean, _, _), (indoor, _, _), _ = full.containers
    single = [line.get_ydata().tolist() for line in full.lines if line.get_color() == "white"]
    assert single == [[40], [20, 50], [60], [50]], "hollow where no spread is known"
    assert rank1.get_ydata().tolist() == [30, 40]
    with_spread = [bar[:, 1].tolist() for bar in bars.get_segments() if len(bar)]
    assert np.allclose(with_spread, [[25, 35]])
    assert (rank1.get_xdata() < mean.get_xdata()).all(), "no bar hides another measure's"
    assert np.allclose(rank1.get_xdata(), [0, 1], atol=0.1)
    assert [label.get_text() for label in full.get_xticklabels()] == ["0.1", "12.2"]
    assert indoor.get_ydata().tolist() == [60]
    assert np.allclose(indoor.get_xdata().astype(float), [1], atol=0.1), "above its own value"
    assert len({line.get_linestyle() for line in (rank1, indoor)}) == 2
    texts = [text.get_text() for text in full.get_legend().get_texts()]
    assert texts == ["rank-1, all", "mAP, all", "rank-1, indoor", "mAP, indoor"]
    assert (full.get_xlabel(), full.get_ylabel(), full.get_title()) == (
        "α",
        "per cent, mean ± deviation (hollow: one run)",
        "one",
    )
    assert [text.get_text() for text in empty.texts] == ["no finished run"]


def test_ablation_bars_show_printed_and_measured_and_leave_out_what_is_missing() -> None:
    panel = ([50.0, np.nan], [40.0, 45.0], [2.0, np.nan])
    (axis,) = figures.ablation_bars({"data": panel}, ["a", "b"], "title").axes
    heights = [[bar.get_height() for bar in c] for c in axis.containers if hasattr(c, "patches")]
    np.testing.assert_equal(heights, [[50, np.nan], [40, 45]])
    assert [text.get_text() for text in axis.texts] == ["50.0", "40.0", "45.0"]


def test_flow_diagram_tells_what_learns_by_colour_and_line() -> None:
    boxes = {"x": (0, 0, "plain"), "E": (1, 0, "trained"), "W": (2, 0, "fixed")}
    (axis,) = figures.flow_diagram(boxes, [("x", "E"), ("E", "W")], "title").axes
    styles = {t.get_text(): t.get_bbox_patch().get_linestyle() for t in axis.texts if t.get_text()}
    assert styles["E"] == "solid" and styles["W"] == "dashed"
    arrows = [text for text in axis.texts if not text.get_text()]
    assert [(arrow.xyann, arrow.xy) for arrow in arrows] == [((0, 0), (1, 0)), ((1, 0), (2, 0))]
    assert len(axis.get_legend().get_texts()) == 2

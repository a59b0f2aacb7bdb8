"""The printed numbers are the papers', and tables show them beside what was measured."""

import json

import pandas as pd
import pytest
from test_agreement import table

from reid_core import tables
from reid_core.config import RunConfig
from reid_core.methods import METHODS
from reid_core.paths import PUBLISHED
from reid_core.tables import (
    COLUMNS,
    MAIN,
    averages,
    beside,
    headline,
    listed,
    measured,
    published,
    steps,
    sweep,
)

PAPERS = sorted(path.stem for path in PUBLISHED.glob("*.csv"))


@pytest.mark.parametrize("paper", PAPERS)
def test_published_numbers_are_tidy(paper):
    table = published(paper)
    assert list(table) == COLUMNS
    assert set(table["dataset"]) <= {"sysu", "regdb"}
    assert all(row.mode in tables.MODES[row.dataset] for row in table.itertuples())
    assert set(table["metric"]) <= {"rank1", "rank5", "rank10", "rank20", "mAP", "mINP"}
    assert table["value"].dropna().between(0, 100).all()
    assert not table.duplicated([c for c in COLUMNS if c not in ("value", "variant")]).any()
    for name in set(table["variant"]) - {""}:
        method, variant = name.split("/")
        assert variant in METHODS[method].VARIANTS, name


def column(paper: str, table: str, mode: str, metric: str) -> pd.Series:
    rows = published(paper).query("table == @table and mode == @mode and metric == @metric")
    return rows["value"]


@pytest.mark.parametrize(
    "table, mode, metric, count, total",
    [  # added up by hand from the printed page
        ("T4", "all", "rank1", 3, 48.17 + 51.22 + 56.48),
        ("T4", "visible-to-infrared", "mAP", 3, 62.74 + 65.81 + 80.30),
        ("T3", "all", "mAP", 21, 780.19),
        ("T2", "infrared-to-visible", "rank1", 13, 673.77),
    ],
)
def test_columns_of_mutual_prediction_add_up(table, mode, metric, count, total):
    values = column("mutual_prediction", table, mode, metric)
    assert values.notna().sum() == count
    assert values.sum() == pytest.approx(total)


def test_rows_of_mutual_prediction():
    rows = published("mutual_prediction")
    assert rows.groupby("table")["method"].nunique().to_dict() == {"T2": 20, "T3": 21, "T4": 3}
    assert len(rows) == 20 * 8 + 21 * 8 + 3 * 8
    hat = rows.query("method == 'HAT' and mode == 'infrared-to-visible'")
    assert hat["value"].tolist() == [70.02, 86.45, 91.61, 66.30]
    assert rows.query("method == 'Hi-CMD' and mode == 'indoor'")["value"].isna().all()


@pytest.mark.parametrize(
    "mode, metric, total",
    [
        ("all", "rank1", 59.14 + 61.60 + 60.35 + 61.23),
        ("all", "mAP", 54.86 + 56.34 + 57.98 + 57.96),
        ("all", "mINP", 38.22 + 45.37 + 40.71 + 45.82),
        ("visible-to-infrared", "rank1", 92.61 + 92.83 + 91.73 + 92.31),
        ("visible-to-infrared", "mAP", 87.95 + 89.24 + 88.01 + 89.39),
        ("visible-to-infrared", "mINP", 79.57 + 82.47 + 80.52 + 82.94),
    ],
)
def test_columns_of_multi_granularity_add_up(mode, metric, total):
    values = column("multi_granularity", "T1", mode, metric)
    assert len(published("multi_granularity")) == 4 * 2 * 3
    assert values.sum() == pytest.approx(total)


@pytest.mark.parametrize(
    "table, mode, metric, count, total",
    [  # added up by hand from the printed page
        ("T1", "all", "rank1", 10, 644.05),
        ("T1", "indoor", "rank20", 7, 689.89),
        ("T2", "visible-to-infrared", "mAP", 10, 769.06),
        ("T2", "infrared-to-visible", "rank10", 7, 650.37),
        ("T3", "all", "mAP", 7, 461.82),
        ("T3", "indoor", "rank1", 7, 519.41),
        ("T4", "infrared-to-visible", "mAP", 3, 83.92 + 84.05 + 84.34),
    ],
)
def test_columns_of_crossvit_csa_add_up(table, mode, metric, count, total):
    values = column("crossvit_csa", table, mode, metric)
    assert values.notna().sum() == count
    assert values.sum() == pytest.approx(total)


def test_gains_that_crossvit_csa_names():
    """§2.2 and §2.3 name some differences of the tables."""
    rows = published("crossvit_csa")
    assert rows.groupby("table")["method"].nunique().to_dict() == {
        "T1": 10, "T2": 10, "T3": 7, "T4": 3
    }  # fmt: skip
    for metric, gain in (("rank1", 5.83), ("rank10", 2.98), ("rank20", 1.62), ("mAP", 3.59)):
        values = column("crossvit_csa", "T3", "all", metric)
        assert values.iloc[-1] - values.iloc[0] == pytest.approx(gain)
    for metric, gain in (("rank1", 1.08), ("rank10", 0.36), ("rank20", 0.01), ("mAP", 1.94)):
        values = column("crossvit_csa", "T1", "all", metric)
        assert values.iloc[-1] - values.iloc[:-1].max() == pytest.approx(gain)
    hard = rows.query("table == 'T4' and method == 'L_trihard'")["value"].to_numpy()
    ours = rows.query("table == 'T4' and method == 'L_trihardw'")["value"].to_numpy()
    assert (ours - hard).tolist() == pytest.approx([0.91, 0.31, 0.62, 0.58, 0.78, 0.47, 0.47, 0.29])


def test_unknown_or_misshapen_paper_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "PUBLISHED", tmp_path)
    (tmp_path / "one.csv").write_text("table,value\nT1,3\n")
    with pytest.raises(
        tables.PublishedError, match=r"two\.csv: no such file; published numbers exist of one"
    ):
        published("two")
    with pytest.raises(
        tables.PublishedError, match=r"one\.csv: found columns \['table', 'value'\], expected"
    ):
        published("one")


# ------------------------------------------------------------------------ beside what is measured


@pytest.fixture
def runs(monkeypatch) -> pd.DataFrame:
    """Two seeds of m/a at rank-1 40 and 50 %, one of m/b; multi-shot rows too."""
    rows = []
    for variant, seed, rank1, alpha in (("a", 0, 0.4, 2), ("a", 1, 0.5, 2), ("b", 0, 0.3, 1)):
        config = RunConfig("m", variant, seed=seed, model={"alpha": alpha}).to_dict()
        settings = json.dumps({k: v for k, v in config.items() if k != "seed"})
        row = dict.fromkeys(("rank5", "rank10", "rank20", "mAP", "mINP"), 0.2) | {"rank1": rank1}
        row |= {"profile": "demo", "dataset": "paperdolls-sysu", "method": "m", "trial": 1}
        row |= {
            "variant": variant,
            "seed": seed,
            "ill": False,
            "settings": settings,
            "source": "run",
        }
        row |= {"protocol": "sysu", "mode": "all"}
        rows += [row | {"gallery": "agw", "shots": 1}, row | {"gallery": "official", "shots": 10}]
    monkeypatch.setattr(tables.results, "table", lambda profile: pd.DataFrame(rows))
    return measured("demo")


def test_measured_takes_single_shot_of_one_gallery(runs):
    assert runs[["variant", "runs"]].values.tolist() == [["m/a", 2], ["m/b", 1]]
    assert measured("demo", "official").empty
    assert measured("demo", trial=2).empty


def test_measured_keeps_reranked_results_apart(monkeypatch, runs):
    table = tables.results.table("demo")
    again = table.assign(mode="all, re-ranked", rank1=table["rank1"] + 0.1)
    both = pd.concat([table, again])
    monkeypatch.setattr(tables.results, "table", lambda profile: both)
    pd.testing.assert_frame_equal(measured("demo"), runs)
    found = measured("demo", rerank=True)
    assert found["mode"].tolist() == ["all", "all"]
    assert found["rank1"].tolist() == pytest.approx([0.55, 0.4])


def test_beside(runs):
    head = {"table": "T1", "reference": "", "dataset": "sysu", "mode": "all"}
    rows = pd.DataFrame(
        [
            {**head, "method": "A", "variant": "m/a", "metric": "rank1", "value": 61.25},
            {**head, "method": "A", "variant": "m/a", "metric": "mAP", "value": float("nan")},
            {**head, "method": "B", "variant": "m/b", "metric": "rank1", "value": 10.0},
            {**head, "method": "C", "variant": "", "metric": "rank1", "value": 5.0},
            {**head, "method": "D", "variant": "m/d", "metric": "rank1", "value": 6.0},
        ]
    )
    table = beside(rows, runs)
    assert table.loc["A", ("all", "rank1", "paper")] == "61.25"
    assert table.loc["A", ("all", "rank1", "measured")] == "45.0 ± 7.1"
    assert table.loc["A", ("all", "mAP", "paper")] == "—"
    assert table.loc["B", ("all", "rank1", "measured")] == "30.0"
    assert table.loc[["C", "D"], ("all", "rank1", "measured")].tolist() == ["—", "—"]
    assert table["", "", "runs"].tolist() == [2, 1, 0, 0]


def test_listed_keeps_its_order_and_shows_dashes(runs):
    table = listed(runs, ["m/b", "m/d", "m/a"])
    assert table["rank1"].tolist() == ["30.0", "—", "45.0 ± 7.1"]
    assert table["runs"].tolist() == [1, 0, 2]
    assert table.index.tolist() == ["m/b", "m/d", "m/a"]


def test_a_row_with_an_ill_run_has_a_dagger(monkeypatch, runs):
    """One of two seeds is enough; rows without one have none."""
    every = tables.results.table("demo")
    sick = every.assign(ill=(every["variant"] == "a") & (every["seed"] == 1))
    monkeypatch.setattr(tables.results, "table", lambda profile: sick)
    cells = listed(measured("demo"), ["m/a", "m/b"])["rank1"]
    assert cells.tolist() == ["45.0 ± 7.1 †", "30.0"]


def test_sweep_is_ordered_by_its_setting(runs):
    again = runs[runs["variant"] == "m/a"].assign(variant="m/c", runs=1, rank1=0.9)
    points = sweep(pd.concat([runs, again]), ["m/a", "m/b", "m/c", "m/none"], "alpha")
    assert points["alpha"].tolist() == [1, 2], "a value twice is one point, of the more runs"
    assert points["rank1"].tolist() == pytest.approx([0.3, 0.45])


def test_steps_are_over_the_first_row_or_the_one_above(runs):
    head = {"table": "T1", "reference": "", "dataset": "sysu", "mode": "all"}
    variants = {"A": "m/a", "B": "m/b", "D": "m/d"}
    rows = pd.DataFrame(
        [
            {**head, "method": name, "variant": variant, "metric": metric, "value": value}
            for metric in ("rank1", "rank10")
            for (name, variant), value in zip(variants.items(), (60.0, 62.5, 61.0), strict=True)
        ]
    )
    over = steps(rows, runs)
    assert list(over.index) == ["B", "D"]
    assert over.columns.tolist() == [("all", "rank1", c) for c in ("paper", "measured", "±")]
    assert over["all", "rank1", "paper"].tolist() == [2.5, 1.0]
    assert over["all", "rank1", "measured"].tolist()[0] == pytest.approx(30 - 45)
    assert over["all", "rank1", "measured"].isna().tolist() == [False, True]
    assert steps(rows, runs, above=True)["all", "rank1", "paper"].tolist() == [2.5, -1.5]


def test_headline_prints_each_methods_own_number():
    runs = averages(table(("mrda", "baseline", 0, 0.3)))
    for mode in ("all", "indoor"):
        found = headline(runs[runs["mode"] == mode], "sysu", mode)
        for name in MAIN:
            rows = published(name.split("/")[0]) if name.split("/")[0] != "baselines" else None
            for metric in ("rank1", "mAP"):
                expected = "—"
                if rows is not None:
                    own = rows[
                        (rows["variant"] == name)
                        & (rows["dataset"] == "sysu")
                        & (rows["mode"] == mode)
                        & (rows["metric"] == metric)
                    ]
                    own = own[~own["method"].str.endswith("reranking")].dropna(subset="value")
                    expected = f"{own['value'].iloc[0]:.2f}" if len(own) else "—"
                assert found.loc[name, f"{metric}, paper"] == expected, (name, metric)


def test_a_step_has_the_deviation_of_its_two_means():
    runs = averages(
        table(
            *[
                ("m", v, s, x)
                for v, x0 in (("a", 0.3), ("b", 0.4))
                for s, x in enumerate((x0, x0 + 0.1))
            ]
        )
    )
    head = {"table": "T1", "reference": "", "dataset": "sysu", "mode": "all", "metric": "rank1"}
    rows = pd.DataFrame(
        [{**head, "method": n.upper(), "variant": f"m/{n}", "value": 60.0} for n in "ab"]
    )
    assert steps(rows, runs)["all", "rank1", "±"].tolist() == [pytest.approx(7.1)]


def test_runs_are_counted_once_for_all_searches():
    runs = averages(
        pd.concat([table(("m", "a", s, 0.3), mode=m) for s in (0, 1) for m in ("all", "indoor")])
    )
    rows = pd.DataFrame(
        [
            {
                "table": "T1",
                "reference": "",
                "dataset": "sysu",
                "mode": m,
                "metric": "rank1",
                "method": "A",
                "variant": "m/a",
                "value": 60.0,
            }
            for m in ("all", "indoor")
        ]
    )
    assert beside(rows, runs)["", "", "runs"].tolist() == [2]

"""Steps and verdicts, by hand; and what the artefacts claim."""

import math

import numpy as np
import pandas as pd
import pytest

from reid_core import agreement, claims
from reid_core.artefacts import artefacts
from reid_core.comparisons import VERDICTS, method_dots, step_chart
from reid_core.drawings import Place

WHERE = {"dataset": "d", "mode": "all", "metric": "rank1"}
PLACE = Place("demo", "d", "e")
NAN = float("nan")


def means(**rows: tuple[float, float, int]) -> pd.DataFrame:
    """Of each variant mean, deviation and runs."""
    lines = [
        WHERE | {"variant": name, "mean": mean, "deviation": deviation, "runs": runs}
        for name, (mean, deviation, runs) in rows.items()
    ]
    return pd.DataFrame(lines, columns=[*WHERE, "variant", "mean", "deviation", "runs"])


def claim(*steps: tuple[str, float, str, float]) -> pd.DataFrame:
    """Steps of a row over another one, with what the paper prints of both."""
    lines = [
        WHERE
        | {"row": row, "over": over, "variant": row, "variant_over": over}
        | {"value": value, "value_over": value_over}
        for row, value, over, value_over in steps
    ]
    return pd.DataFrame(lines, columns=claims.COLUMNS)


def test_the_interval_is_students_by_hand():
    # 50, 52, 54 over 47, 48, 49: variances 4 and 1, in common 2.5; t(4) at 97.5 % is 2.7764
    ours = means(a=(52, 2, 3), b=(48, 1, 3))
    step = agreement.compare(claim(("a", 65, "b", 60)), ours).iloc[0]
    half = 2.7764 * math.sqrt(2.5 * 2 / 3)
    assert (step["printed"], step["measured"]) == (5, 4)
    assert (step["low"], step["high"]) == pytest.approx((4 - half, 4 + half), abs=1e-3)
    assert (step["verdict"], step["size"]) == ("agrees", "as printed")
    # five runs over two: (4 · 4 + 1 · 1) / 5 = 3.4; t(5) is 2.5706
    step = agreement.compare(claim(("a", 65, "b", 60)), means(a=(52, 2, 5), b=(48, 1, 2))).iloc[0]
    assert step["high"] == pytest.approx(4 + 2.5706 * math.sqrt(3.4 * (1 / 5 + 1 / 2)), abs=1e-3)


@pytest.mark.parametrize(
    "printed, printed_over, verdict, size",
    [
        (65, 60, "agrees", "as printed"),
        (69, 60, "agrees", "smaller"),
        (60.1, 60, "agrees", "larger"),
        (60, 61, "disagrees", "smaller"),
        (60, 60, "disagrees", "smaller"),  # the paper says: no step
        (NAN, NAN, "agrees", ""),  # a curve, whose best point it is
    ],
)
def test_a_step_outside_the_spread(printed, printed_over, verdict, size):
    ours = means(a=(52, 2, 3), b=(48, 1, 3))
    step = agreement.compare(claim(("a", printed, "b", printed_over)), ours).iloc[0]
    assert (step["verdict"], step["size"]) == (verdict, size)


def test_a_step_down_that_the_paper_prints_too():
    ours = means(a=(40, 1, 3), b=(60, 1, 3))
    for printed, size in ((20, "smaller"), (50, "larger"), (41, "as printed")):
        step = agreement.compare(claim(("a", printed, "b", 60)), ours).iloc[0]
        assert (step["verdict"], step["size"]) == ("agrees", size)


def test_inside_the_spread_one_seed_and_not_measured():
    ours = means(a=(50, 3, 3), b=(49, 3, 3), single=(70, NAN, 1))
    pairs = [("a", 9, "b", 1), ("single", 9, "a", 1), ("a", 9, "single", 1), ("a", 9, "c", 1)]
    found = agreement.compare(claim(*pairs), ours)
    words = ["inside the spread", "one seed", "one seed", "not measured"]
    assert found["verdict"].tolist() == words
    assert found["size"].tolist() == ["smaller", "", "", ""], "8 printed, 1 ± 6.8 measured"
    assert found["runs"].tolist() == [3, 1, 3, 3]
    assert found["runs_over"].tolist() == [3, 3, 1, 0]
    assert found["measured"].tolist()[1:3] == [20, -20], "seen, and not judged"


def test_equal_runs_without_any_spread_are_no_step():
    found = agreement.compare(claim(("a", 9, "b", 1)), means(a=(50, 0, 2), b=(50, 0, 2)))
    assert found["verdict"].tolist() == ["inside the spread"]
    found = agreement.compare(claim(("a", 9, "b", 1)), means(a=(51, 0, 2), b=(50, 0, 2)))
    assert found["verdict"].tolist() == ["agrees"]


def ordered(ours: pd.DataFrame, *steps: tuple[str, float, str, float]) -> dict:
    found = agreement.compare(claim(*steps), ours).assign(artefact="x")
    (line,) = agreement.orders(found).to_dict("records")
    return line


def test_order_of_rows():
    steps = [("b", 61, "a", 60), ("c", 62, "a", 60), ("d", 63, "a", 60)]
    rising = means(a=(1, 0, 2), b=(2, 0, 2), c=(3, 0, 2), d=(4, 0, 2))
    assert ordered(rising, *steps) == {
        **{"artefact": "x", **WHERE, "rows": 4, "of": 4},
        **{"tau": 1.0, "best": True},
    }
    # of six pairs one is turned round: (5 - 1) / 6; the best is b
    line = ordered(means(a=(1, 0, 2), b=(2, 0, 2), c=(4, 0, 2), d=(3, 0, 2)), *steps)
    assert (line["tau"], line["best"]) == (pytest.approx(4 / 6), False)
    # c and d tie: five pairs in order, tau-b is 5 / sqrt(6 · 5); a tie does not unseat the best
    line = ordered(means(a=(1, 0, 2), b=(2, 0, 2), c=(4, 0, 2), d=(4, 0, 2)), *steps)
    assert (line["tau"], line["best"]) == (pytest.approx(5 / math.sqrt(30)), True)


def test_order_where_rows_are_missing():
    steps = [("b", 61, "a", 60), ("c", 62, "a", 60)]
    line = ordered(means(a=(1, 0, 2), c=(3, 0, 2)), *steps)
    assert (line["rows"], line["of"], line["best"]) == (2, 3, True)
    assert np.isnan(line["tau"]), "two rows are always in order or in reverse"
    line = ordered(means(a=(1, 0, 2), b=(3, 0, 2)), *steps)
    assert line["best"] is None, "the paper's best is not measured"
    assert ordered(means(c=(3, 0, 2)), *steps)["best"] is None, "nothing stands beside it"


def test_each_curve_has_a_best_point_of_its_own():
    steps = [("p", NAN, "a", NAN), ("p", NAN, "b", NAN), ("q", NAN, "a", NAN)]
    ours = means(p=(3, 0, 2), q=(1, 0, 2), a=(2, 0, 2), b=(1, 0, 2))
    found = agreement.compare(claim(*steps), ours).assign(artefact="x")
    lines = agreement.orders(found)
    assert lines["best"].tolist() == [True, False]
    assert lines["rows"].tolist() == [3, 2]


# ------------------------------------------------------------------------------ all the artefacts


def table(*rows: tuple[str, str, int, float], mode: str = "all") -> pd.DataFrame:
    """As of `results.table`: (method, variant, seed, rank-1) of dataset d."""
    lines = []
    for method, variant, seed, rank1 in rows:
        line = dict.fromkeys(("rank1", "rank5", "rank10", "rank20", "mAP", "mINP"), rank1)
        line |= {"profile": "demo", "dataset": "d", "method": method, "variant": variant}
        line |= {"seed": seed, "trial": 1, "protocol": "sysu", "mode": mode, "gallery": "agw"}
        lines.append(
            line | {"shots": 1, "ill": False, "settings": '{"model": {}}', "source": "run"}
        )
    return pd.DataFrame(lines)


def test_every_artefact_has_a_line_and_a_verdict():
    runs = table(
        *[("mrda", "baseline", seed, x) for seed, x in enumerate((0.30, 0.31, 0.32))],
        *[("mrda", "mrm", seed, x) for seed, x in enumerate((0.40, 0.41, 0.42))],
        *[("mrda", "dam", seed, x) for seed, x in enumerate((0.30, 0.31, 0.33))],
        *[("mrda", "mrm-dam", seed, x) for seed, x in enumerate((0.20, 0.21, 0.22))],
        ("mrda", "bam", 0, 0.1),
    )
    steps = agreement.steps(PLACE, runs)
    found = agreement.overview(PLACE, runs, steps)
    assert list(found.index) == list(artefacts())
    assert len(found) == 29
    t2 = found.loc["mrda-T2"]
    assert (t2["runs"], t2["verdict"]) == ("4 of 4", "mixed")
    words = [t2[word] for word in agreement.STEP_WORDS]
    assert words == ["2", "2", "2", "0", "0"], "rank-1 and mAP of three steps"
    assert (t2["sign"], t2["best"]) == ("4 of 6", "0 of 2")
    verdicts = found["verdict"].to_dict()
    assert verdicts["mrda-T1"] == "one seed"
    assert verdicts["mrda-T3"] == "not measured", "no other row of it is"
    assert verdicts["crossvit_csa-T1"] == "nothing to compare"
    assert verdicts["mrda-F8"] == "picture: look"
    assert verdicts["crossvit_csa-F3"] == "not measured"
    assert found.loc["mrda-T5", "runs"] == "0 of 3", "of the other dataset there is no run"


def test_the_overview_tells_the_median_correlation(monkeypatch):
    taus = pd.DataFrame({"artefact": "mrda-T2", "tau": [1.0, 0.5, -0.9, np.nan], "best": None})
    monkeypatch.setattr(agreement, "orders", lambda claimed: taus)
    runs = table(("mrda", "bam", 0, 0.1))
    found = agreement.overview(PLACE, runs, agreement.steps(PLACE, runs))
    assert found.loc["mrda-T2", "tau"] == "0.50"
    assert found.loc["mrda-T1", "tau"] == "—"


def test_verdicts_of_one_table():
    low = [("mrda", "baseline", s, x) for s, x in enumerate((0.30, 0.31, 0.32))]

    def verdict(*rows):
        every = table(*low, *rows)
        steps = agreement.steps(PLACE, every)
        return agreement.overview(PLACE, every, steps).loc["mrda-T2", "verdict"]

    def three(variant, x):
        return [("mrda", variant, s, x + 0.01 * s) for s in range(3)]

    assert verdict() == "not measured"
    assert verdict(("mrda", "dam", 0, 0.6)) == "one seed"
    assert verdict(*three("dam", 0.6)) == "agrees"
    assert verdict(*three("dam", 0.6), *three("mrm", 0.31)) == "agrees in part"
    assert verdict(*three("dam", 0.31), ("mrda", "mrm", 0, 0.6)) == "inside the spread"
    assert verdict(*three("dam", 0.1), *three("mrm", 0.31)) == "disagrees"


def test_nothing_measured_and_a_dataset_left_out():
    runs = pd.DataFrame(columns=table(("m", "v", 0, 0.1)).columns)
    steps = agreement.steps(Place("demo", "d", ""), runs)
    assert set(steps["dataset"]) == {"d"}
    assert set(steps["verdict"]) == {"not measured"}
    found = agreement.overview(Place("demo", "d", ""), runs, steps)
    assert set(found["verdict"]) == {"not measured", "nothing to compare"}


def test_claims_are_the_papers_rows():
    ladder = claims.ladder("mutual_prediction", "T4", "above").query(
        "dataset == 'regdb' and metric == 'rank1'"
    )
    assert ladder["row"].tolist() == ["Baseline+FGFL", "Baseline+FGFL+CMIMPL"]
    assert ladder["over"].tolist() == ["Baseline", "Baseline+FGFL"]
    assert (ladder["value"] - ladder["value_over"]).tolist() == pytest.approx([6.07, 15.68])
    first = claims.ladder("multi_granularity", "T1").query("dataset == 'sysu' and metric == 'mINP'")
    assert first["over"].unique().tolist() == ["baseline"]
    assert (first["value"] - first["value_over"]).tolist() == pytest.approx([7.15, 2.49, 7.60])
    left_out = artefacts()["fprnet-T5"].claim.query("metric == 'rank1'")
    assert (left_out["value"] - left_out["value_over"]).tolist() == pytest.approx(
        [4.98, 3.88, 3.20, 2.37]
    ), "over FPRnet's row, which stands in Table 8"
    t8 = artefacts()["fprnet-T8"].claim.query("metric == 'mAP'")
    assert t8["over"].tolist()[-2:] == ["FPRnet+SRCNN", "FPRnet+reranking"]
    assert t8["variant_over"].iloc[-1] == "fprnet/fprnet, re-ranked"


def test_claims_of_curves_are_their_peaks():
    peaks = artefacts()["multi_granularity-F3"].claim.query("metric == 'rank1'")
    assert peaks[["row", "over"]].values.tolist() == [
        *[["mgsa", other] for other in ("cbam", "i1-2", "i1-3", "i1-6")],
        *[["msam", other] for other in ("cbam", "i2-3", "i2-4", "i2-6")],
    ]
    weights = artefacts()["mutual_prediction-F3"].claim
    assert len(weights) == 2 * 2 * (11 + 11), "two searches, two measures, eleven other points"


# ---------------------------------------------------------------------------------- the two charts


def test_every_verdict_of_a_measured_step_has_a_mark_of_its_own():
    assert set(VERDICTS) == set(agreement.STEP_WORDS) - {"not measured"}
    assert len(set(VERDICTS.values())) == len({mark for _, mark in VERDICTS.values()}) == 4


def test_step_chart_draws_printed_and_measured():
    pairs = [("a", 65, "b", 60), ("single", 9, "a", 1), ("a", 9, "c", 1)]
    ours = means(a=(52, 2, 3), b=(48, 1, 3), single=(70, NAN, 1))
    steps = agreement.compare(claim(*pairs), ours).assign(artefact="x")
    figure = step_chart({"first": steps, "empty": steps[:0]}, "title")
    axis = figure.axes[0]
    printed = next(line for line in axis.lines if line.get_marker() == "D")
    assert printed.get_xdata().tolist() == [5, 8, 8]
    assert axis.get_yticklabels()[0].get_text() == "a over b"
    drawn = {  # by mark: where it stands, and how far its bar reaches
        bar.lines[0].get_marker(): (
            bar.lines[0].get_xdata().tolist(),
            [float(np.ptp(path.vertices[:, 0])) for path in bar.lines[2][0].get_paths()],
        )
        for bar in axis.containers
    }
    assert drawn["o"] == ([4], [pytest.approx(2 * 2.7764 * math.sqrt(5 / 3), abs=1e-3)])
    assert drawn["^"] == ([18], [0])
    assert drawn["X"] == ([], [])


def test_method_dots_hollows_a_single_run():
    rows = pd.DataFrame(
        {"rank1": [0.4, 0.5, NAN], "rank1_std": [0.02, NAN, NAN]}, index=["m/a", "m/b", "m/c"]
    )
    figure = method_dots({"here": rows.assign(mAP=0.3, mAP_std=0.1)}, "title")
    axis = figure.axes[0]
    assert axis.containers[0].lines[0].get_xdata()[:2].tolist() == [40, 50]
    hollow = next(line for line in axis.lines if line.get_color() == "white")
    assert hollow.get_xdata()[:1].tolist() == [50]


def test_a_printed_step_of_zero_has_no_sign():
    runs = table(
        *[
            ("mrda", v, s, x + s / 100)
            for v, x in (("baseline", 0.3), ("mrm", 0.4), ("dam", 0.2))
            for s in range(3)
        ]
    )
    steps = agreement.steps(PLACE, runs)
    before = agreement.overview(PLACE, runs, steps).loc["mrda-T2", "sign"]
    assert before == "2 of 4"
    steps.loc[(steps["artefact"] == "mrda-T2") & (steps["variant"] == "mrda/mrm"), "printed"] = 0.0
    assert agreement.overview(PLACE, runs, steps).loc["mrda-T2", "sign"] == "0 of 2", (
        "no sign is printed"
    )


def of_trials(*trials):
    at = {("baseline", 1): 0.3, ("fgfl", 1): 0.5, ("baseline", 2): 0.6, ("fgfl", 2): 0.5}
    return pd.concat(
        table(
            ("mutual_prediction", v, 0, x),
            ("mutual_prediction", v, 1, x + 0.01),
            mode="visible-to-infrared",
        ).assign(dataset="e", protocol="regdb", gallery="full", trial=trial)
        for (v, trial), x in at.items()
        if trial in trials
    )


def test_an_artefact_of_one_trial_is_not_averaged_over_others():
    found = agreement.steps(PLACE, of_trials(1, 2))
    found = found.query("artefact == 'mutual_prediction-T4' and metric == 'rank1'")
    found = found.query("variant == 'mutual_prediction/fgfl' and mode == 'visible-to-infrared'")
    assert found["measured"].tolist() == pytest.approx([20.0])
    assert found["runs"].tolist() == [2]


def test_runs_of_another_trial_are_not_there():
    runs = of_trials(2)
    found = agreement.overview(PLACE, runs, agreement.steps(PLACE, runs)).loc[
        "mutual_prediction-T4"
    ]
    assert found["runs"].startswith("0 of ") and found["verdict"] == "not measured"


def test_the_places_gallery_counts():
    runs = table(
        *[
            ("mrda", v, s, x + s / 100)
            for v, x in (("baseline", 0.3), ("mrm", 0.4))
            for s in range(3)
        ]
    ).assign(gallery="official")
    for gallery, words in (("agw", {"not measured"}), ("official", {"agrees", "not measured"})):
        steps = agreement.steps(Place("demo", "d", "e", gallery), runs)
        assert set(steps.query("artefact == 'mrda-T2'")["verdict"]) == words


def test_a_claim_needs_a_number_of_the_method(monkeypatch):
    head = {"table": "T1", "reference": "", "dataset": "sysu", "mode": "all"}
    rows = [
        {**head, "method": m, "variant": f"m/{m}", "metric": k, "value": v}
        for m, k, v in (
            ("own", "rank1", 9.0),
            ("a", "rank1", 5.0),
            ("a", "mAP", 4.0),
            ("b", "mAP", 3.0),
        )
    ]
    monkeypatch.setattr(claims, "published", lambda paper: pd.DataFrame(rows))
    found = claims.above_others("p", "T1", "m/own")
    assert found[["metric", "row", "over"]].values.tolist() == [["rank1", "own", "a"]]


def test_re_ranked_rows_are_measured_as_such():
    rows = [("fprnet", "fprnet", seed, 0.4 + seed / 100) for seed in range(3)]
    again = table(*[(*row[:3], row[3] + 0.2) for row in rows], mode="all, re-ranked")
    found = agreement.steps(PLACE, pd.concat([table(*rows), again]))
    found = found.query("artefact == 'fprnet-T8' and metric == 'rank1' and row == 'FPRnet'")
    found = found[found["over"] == "FPRnet+reranking"]
    assert found["measured"].tolist() == pytest.approx([-20])


def test_steps_without_a_spread_do_not_spoil_those_that_have_one():
    rows = [("mrda", "baseline", seed, 0.3 + seed / 100) for seed in range(3)]
    rows += [("mrda", "dam", seed, 0.6 + seed / 100) for seed in range(3)]
    every = table(*rows, ("mrda", "mrm", 0, 0.6))
    lines = agreement.overview(PLACE, every, agreement.steps(PLACE, every))
    assert lines.loc["mrda-T2", "verdict"] == "agrees"

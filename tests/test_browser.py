"""The retrieval browser: what it shows follows its controls, and is what the evaluation ranks."""

import numpy as np
import pytest

from reid_core.browser import EVERYONE, Browser, finished_runs
from reid_core.data.datasets import obtain
from reid_core.methods import configure
from reid_core.records import RunError
from reid_core.retrieval import evaluate
from reid_core.retrieval.candidates import prepare
from reid_core.retrieval.features import measure
from reid_core.retrieval.protocols import ranking
from reid_core.train import fit

DATASETS = ("paperdolls-tiny", "paperdolls-tiny-regdb")
COLUMNS = ["identity", "camera", "frame", "modality"]


@pytest.fixture(scope="module", autouse=True)
def results(tmp_path_factory):
    """Two runs on each dataset, and no others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REID_RESULTS", str(tmp_path_factory.mktemp("results")))
        for dataset in DATASETS:
            obtain(dataset)
            for variant in ("one-stream", "two-stream"):
                measure(fit(configure("baselines", variant, "smoke", dataset=dataset)))
        yield


@pytest.fixture(params=DATASETS)
def browser(request) -> Browser:
    return Browser("smoke", request.param, obtain(request.param), "baselines/two-stream")


@pytest.fixture
def sysu() -> Browser:
    return Browser("smoke", DATASETS[0], obtain(DATASETS[0]))


def average_precision(right: list[bool]) -> tuple[float, float]:
    """AP and INP of a list of answers, by their definition."""
    ranks = [rank for rank, hit in enumerate(right, 1) if hit]
    precisions = [(number + 1) / rank for number, rank in enumerate(ranks)]
    return sum(precisions) / len(ranks), len(ranks) / ranks[-1]


def exists(query, answer) -> bool:
    """SYSU-MM01's rule, which no picture of RegDB meets."""
    return not (query.camera == 3 and answer.camera == 2)


def test_scores_are_those_of_the_evaluation(browser):
    """Every query of every search: its list by the rule and AP by its definition; their mean is
    what a paper would print of the trial."""
    images = browser.images[browser.run.value]
    features = np.load(browser.folders[browser.run.value] / "features.npy")
    for name in browser.search.options:
        browser.search.value = name
        scores = []
        browser.trial.value = browser.trial.max
        for _, query in browser.query.options:
            browser.query.value = query
            found = browser.ranking
            assert (np.diff(found.similarity) <= 0).all(), "best first"
            answers = [images.loc[row] for row in found.rows]
            there = [exists(images.loc[query], answer) for answer in answers]
            assert (found.rank > 0).tolist() == there
            assert found.rank[found.rank > 0].tolist() == list(range(1, sum(there) + 1))
            left = [answer for answer, ok in zip(answers, there, strict=True) if ok]
            right = [answer.identity == images.identity[query] for answer in left]
            assert found.right.sum() == sum(right)
            if any(right):
                scores.append(average_precision(right))
                given = found.average_precision, found.inverse_negative_penalty
                np.testing.assert_allclose(given, scores[-1], rtol=1e-9)
            else:
                assert np.isnan(found.average_precision)
        setting = {"trials": 10} | browser.settings[name]
        table = evaluate(features, *(images[c] for c in COLUMNS), **setting).trials
        expected = table[["mAP", "mINP"]].iloc[-1]
        np.testing.assert_allclose(np.mean(scores, axis=0), expected, rtol=1e-9)


def test_cmc_counts_the_place(sysu):
    """In identities for SYSU-MM01: how many people the list names until the right one."""
    people = sysu.images[sysu.run.value]["identity"]
    for _, query in sysu.query.options:
        sysu.query.value = query
        found = sysu.ranking
        until = found.rows[(found.rank > 0) & (found.rank <= found.rank[found.right].min())]
        assert found.place == people[until].nunique()


def test_llcm_leaves_out_the_person_under_the_same_camera():
    """Three people under two cameras of each modality."""
    labels = [(i, c, m) for i in (1, 2, 3) for c in (1, 2) for m in ("visible", "infrared")]
    identity, camera, modality = map(np.array, zip(*labels, strict=True))
    features = np.random.default_rng(0).normal(size=(len(labels), 4))
    test = prepare(
        features, identity, camera, np.ones(len(labels), int), modality, protocol="llcm",
        mode="infrared-to-visible", shots=1, gallery="agw", permutations=None, trials=1,
    )  # fmt: skip
    for query in test.queries.index:
        found = ranking(test, query)
        (gone,) = found.rows[found.rank == 0]
        assert (identity[gone], camera[gone]) == (identity[query], camera[query])


def shown(browser: Browser) -> bytes:
    return browser.picture().data


def words(browser: Browser) -> str:
    return browser.figure().get_suptitle()


def test_every_control_changes_what_is_shown(sysu):
    before = shown(sysu)
    for control, value in (
        ("run", "baselines/two-stream, seed0"),
        ("search", sysu.search.options[1]),
        ("trial", 2),
        ("person", sysu.person.options[2]),
        ("count", 5),
    ):
        getattr(sysu, control).value = value
        assert shown(sysu) != before, control
        before = shown(sysu)
    sysu.next.click()
    assert shown(sysu) != before and sysu.query.index == 1
    sysu.previous.click()
    sysu.previous.click()  # at the first one already
    assert shown(sysu) == before and sysu.query.index == 0


def test_what_is_chosen_stays_where_it_is_offered(browser):
    browser.query.index = 3
    query = browser.query.value
    browser.run.value = browser.run.options[0]
    assert browser.query.value == query
    person = browser.images[browser.run.value]["identity"][query]
    browser.person.value = person
    assert browser.query.value == query
    offered = [row for _, row in browser.query.options]
    assert set(browser.images[browser.run.value]["identity"][offered]) == {person}
    browser.person.value = EVERYONE
    assert browser.query.value == query
    browser.search.value = browser.search.options[1]
    modality = browser.images[browser.run.value]["modality"]
    sides = set(modality[[row for _, row in browser.query.options]])
    assert sides == {"infrared"}, (
        "infrared asks, in SYSU-MM01's layout and in RegDB's second search"
    )


def test_says_what_is_left_out_and_why(sysu):
    images = sysu.images[sysu.run.value]
    for _, query in sysu.query.options:
        sysu.query.value = query
        answered = "camera 2 stands in the room" in words(sysu)
        assert answered == (images["camera"][query] == 3)
        assert f"AP {100 * sysu.ranking.average_precision:.1f} %" in words(sysu)


def test_regdb_has_one_gallery():
    browser = Browser("smoke", DATASETS[1], obtain(DATASETS[1]))
    assert browser.trial.disabled and browser.trial.max == 1 and ", trial" not in words(browser)
    assert list(browser.search.options) == ["visible-to-infrared", "infrared-to-visible"]


def test_names_the_command_where_no_run_is_finished(monkeypatch, tmp_path):
    monkeypatch.setenv("REID_RESULTS", str(tmp_path))
    with pytest.raises(RunError, match="python -m reid_core train baselines/two-stream --profile"):
        finished_runs("smoke", "paperdolls-tiny")


def test_refuses_features_that_are_cut_short(sysu):
    file = sysu.folders[sysu.run.value] / "features.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:90])
    try:
        with pytest.raises(RunError, match=r"features\.npy: missing or damaged"):
            Browser("smoke", DATASETS[0], sysu.root)
    finally:
        file.write_bytes(whole)


def test_refuses_features_of_other_pictures(sysu):
    with pytest.raises(RunError, match=r"other pictures"):
        other = obtain(DATASETS[0]).parent / "other"
        obtain(DATASETS[0]).rename(other)
        try:
            (picture := next(other.glob("cam1/*/*.*"))).write_bytes(picture.read_bytes() + b" ")
            Browser("smoke", DATASETS[0], other)
        finally:
            picture.write_bytes(picture.read_bytes()[:-1])
            other.rename(other.parent / DATASETS[0])


def test_the_run_that_is_named_is_shown_first():
    shown = Browser("smoke", DATASETS[0], obtain(DATASETS[0]), "baselines/one-stream, seed0")
    assert shown.run.value == "baselines/one-stream, seed0"


def test_another_trial_of_regdb_is_asked_with_the_same_picture_or_its_first():
    browser = Browser("smoke", DATASETS[1], obtain(DATASETS[1]))
    one, other = browser.run.options
    images = browser.images[one]
    browser.query.index = 3
    path = images["path"][browser.query.value]
    browser.images[other] = images.iloc[::-1].reset_index(drop=True)  # as if of another trial
    browser.run.value = other
    assert browser.images[other]["path"][browser.query.value] == path
    browser.images[one] = images.assign(path="elsewhere/" + images["path"])
    browser.run.value = one
    assert browser.query.index == 0


def test_what_does_not_exist_for_a_query_is_not_counted(sysu):
    for _, query in sysu.query.options:
        sysu.query.value = query
        exist = (sysu.ranking.rank > 0).sum()
        assert f"{exist} pictures answer" in words(sysu)
        if len(sysu.ranking.rank) > exist:
            return
    raise AssertionError("no query of camera 3")

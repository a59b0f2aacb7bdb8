"""What must hold for any input: metrics, sampler, settings and readers, tried by hypothesis."""

import json
import math
import shutil
import string
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_batches import draws, make_table
from test_metrics import naive_metrics

from reid_core.config import ConfigError, RunConfig, strictly
from reid_core.data import DATASETS, DatasetError
from reid_core.data.batches import CrossModalSampler
from reid_core.data.images import fingerprint
from reid_core.methods import configure
from reid_core.retrieval import rank_metrics

# derandomised: what CI finds today it finds tomorrow; no deadline, since machines differ
few = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MEASURES = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")


# metrics


TIED = st.sampled_from([-0.0, 0.0, 1.0])  # of the zeros neither is the higher


@st.composite
def galleries(draw, ties=True):
    """(Q, G) similarities, many equal or all distinct, the identities of both sides, and which
    images do not exist for a query (as those of its own camera); query 0 has a match."""
    queries, gallery = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    many = {"min_size": queries * gallery, "max_size": queries * gallery}
    distinct = st.permutations(range(queries * gallery))
    similarity = np.array(draw(st.lists(TIED, **many) if ties else distinct))
    similarity = (similarity / 7).astype(draw(st.sampled_from([np.float32, np.float64])))
    identity = st.integers(0, 4)
    query_ids = draw(st.lists(identity, min_size=queries, max_size=queries))
    gallery_ids = draw(st.lists(identity, min_size=gallery, max_size=gallery))
    query_ids[0] = gallery_ids[0]
    ignore = np.array(draw(st.lists(st.booleans(), **many)))
    ignore[0] = False
    matrices = (array.reshape(queries, gallery) for array in (similarity, ignore))
    return next(matrices), np.array(query_ids), np.array(gallery_ids), next(matrices)


@few
@given(galleries() | galleries(ties=False), st.sampled_from(["identities", "images"]))
def test_measures_are_the_naive_ones_and_lie_in_their_bounds(example, cmc):
    *arrays, ignore = example
    gallery_ids = arrays[-1]
    found = rank_metrics(*arrays, ignore=ignore, cmc=cmc)
    assert found == pytest.approx(naive_metrics(*example, cmc), abs=1e-12)
    curve = [found[f"rank{k}"] for k in (1, 5, 10, 20)]
    assert curve[0] >= 0 and curve == sorted(curve) and curve[-1] <= 1
    # INP is the precision at the last match and AP the mean of those at all: of one match they are
    # the same, and no precision is below 1/G
    assert 1 / len(gallery_ids) <= found["mAP"] <= 1
    assert 1 / len(gallery_ids) <= found["mINP"] <= 1


@few
@given(st.booleans(), st.data(), st.sampled_from(["identities", "images"]))
def test_the_order_of_gallery_and_queries_does_not_matter(ties, data, cmc):
    """Of equal similarities the gallery's order does: then only the queries' is changed."""
    similarity, query_ids, gallery_ids, ignore = data.draw(galleries(ties))
    rows, columns = range(len(query_ids)), range(len(gallery_ids))
    rows = data.draw(st.permutations(rows))
    columns = list(columns) if ties else data.draw(st.permutations(columns))
    mixed = similarity[rows][:, columns], query_ids[rows], gallery_ids[columns]
    again = rank_metrics(*mixed, ignore=ignore[rows][:, columns], cmc=cmc)
    found = rank_metrics(similarity, query_ids, gallery_ids, ignore=ignore, cmc=cmc)
    assert again == pytest.approx(found)


@few
@given(galleries() | galleries(ties=False), st.integers(0, 9))
def test_a_wrong_picture_at_the_end_changes_nothing_and_in_front_never_helps(example, stranger):
    similarity, query_ids, gallery_ids, ignore = example
    found = rank_metrics(similarity, query_ids, gallery_ids, ignore=ignore)
    ignore = np.pad(ignore, ((0, 0), (0, 1)))
    for place, better in ((-2.0, False), (1e9, True)):
        column = np.full((len(query_ids), 1), place, similarity.dtype)
        more = np.hstack([similarity, column]), query_ids, np.append(gallery_ids, 100 + stranger)
        again = rank_metrics(*more, ignore=ignore)
        if better:
            assert all(again[m] <= found[m] for m in MEASURES)
            assert again["rank1"] == 0
        else:
            assert again == found


# the sampler

PEOPLE = st.dictionaries(
    st.integers(0, 400), st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12
)


@few
@given(PEOPLE, st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**31 - 1), st.integers(0, 99))
def test_a_batch_is_p_people_twice_and_follows_from_seed_and_epoch(counts, p, k, seed, epoch):
    table = make_table(counts, first=17)
    complete = [i for i, (visible, infrared) in counts.items() if visible and infrared]
    if len(complete) < p:
        with pytest.raises(DatasetError, match=f"a batch needs {p} .*has {len(complete)} "):
            CrossModalSampler(table, p, k, seed)
        return
    sampler = CrossModalSampler(table, p, k, seed, steps=2)
    for visible, infrared, classes in sampler.epoch(epoch):
        people = np.array(sampler.classes)[classes]
        assert len(people) == p * k and set(people) <= set(complete)
        assert (np.unique(people, return_counts=True)[1] == k).all()  # nobody is drawn twice
        for rows, modality in ((visible, "visible"), (infrared, "infrared")):
            assert (table.loc[rows, "identity"] == people).all()
            assert (table.loc[rows, "modality"] == modality).all()
    again = CrossModalSampler(table, p, k, seed, steps=2)
    next(again.epoch(epoch + 1))
    assert draws(again, epoch) == draws(sampler, epoch)


# settings

SHARE, AMOUNT = st.floats(0, 1), st.floats(0, 1000) | st.integers(0, 1000)
GOOD = {
    "seed": st.integers(0, 2**31 - 1),
    "height": st.integers(1, 999),
    "pad": st.integers(0, 99),
    "flip": SHARE,
    "superres": st.booleans(),
    "identities": st.integers(2, 64),
    "optimizer": st.sampled_from(["sgd", "adam", "adamw"]),
    "lr": AMOUNT,
    "momentum": st.floats(0, 1, exclude_min=True, exclude_max=True),  # neither fits every optimizer
    "warmup": AMOUNT,
    "milestones": st.lists(AMOUNT, max_size=3),
    "precision": st.sampled_from(["bf16", "fp32"]),
    "evaluate_on": st.sampled_from(["test", "val"]),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
ANYTHING = JSON | st.binary(max_size=3) | st.sets(st.integers(), max_size=2) | st.just(10**400)
NAMES = [f.name for f in fields(RunConfig)]
NEEDED = {"method": "baselines", "variant": "two-stream"}


@few
@given(st.fixed_dictionaries({}, optional=GOOD))
def test_settings_come_back_from_what_params_store(values):
    run = strictly(RunConfig, NEEDED | values, "here")
    stored = json.loads(json.dumps(run.to_dict()))
    assert strictly(RunConfig, stored, "params.json") == run
    for name, value in values.items():
        assert getattr(run, name) == (tuple(value) if isinstance(value, list) else value)


@few
@given(st.sampled_from(NAMES), ANYTHING)
def test_a_value_is_taken_as_it_is_or_refused_as_a_setting(name, value):
    try:
        run = strictly(RunConfig, NEEDED | {name: value}, "here")
    except ConfigError as error:
        assert str(error).startswith((f"here: {name} is ", f"here: {name}."))
        return
    taken = getattr(run, name)
    assert taken == (tuple(value) if isinstance(value, list) else value)
    assert isinstance(taken, bool) == isinstance(value, bool)  # 1 is not True
    assert not isinstance(taken, float) or math.isfinite(taken)
    json.dumps(run.to_dict(), allow_nan=False)


@few
@given(st.text(max_size=12).filter(lambda name: name not in NAMES), ANYTHING)
def test_an_unknown_setting_is_refused_by_its_name(name, value):
    with pytest.raises(ConfigError) as error:
        strictly(RunConfig, NEEDED | {name: value}, "here")
    assert f"unknown setting '{name}'. Choices: method" in str(error.value)


def names_in(overrides) -> list[str]:
    """At any depth: settings, and layouts and methods, which hold settings of their own."""
    if not isinstance(overrides, dict):
        return []
    return [*overrides, *(name for value in overrides.values() for name in names_in(value))]


@few
@given(JSON | st.dictionaries(st.sampled_from([*NAMES, "sysu", "mrda", "margin"]), ANYTHING))
def test_overrides_of_any_kind_are_taken_or_refused(overrides):
    try:
        configure("baselines", "two-stream", "smoke", overrides)
    except ConfigError as error:
        if not isinstance(overrides, dict):
            assert str(error).startswith("overrides: found ")
            return
        assert any(
            text in str(error)
            for name in names_in(overrides)
            for text in (f", {name}: found ", f"setting '{name}'.", f": {name} is ", f": {name}.")
        )


# readers

HUGE = ("9" * 30, "9" * 5000)  # no int64, and more digits than Python converts
TRICKS = ["..", ".", "", "/etc", "C:", "~", "\\", "%2e%2e", "\0", "a" * 300, "é", *HUGE]
FOLDER = st.sampled_from(["Visible", "vis", "Thermal", "", "..", "/Visible", "./vis"])
PERSON = st.sampled_from(["1", "2", "0001", "10", "..", "x", *HUGE])
FILE = st.sampled_from(["a_1.bmp", "b_2.bmp", *TRICKS]) | st.text(max_size=4)
LABEL = st.sampled_from(["0", "1", "", "-1", "x", *HUGE, "0 0", "٣"])
LINE = st.builds("{}/{}/{} {}".format, FOLDER, PERSON, FILE, LABEL) | st.text(max_size=12)
WORD = st.sampled_from(["1", "2", "3", "", "../1", "1;2", *HUGE, "1e3", "٣"])
BYTES = st.binary(max_size=30)
LISTS = {
    "sysu": ("exp/train_id.txt", st.lists(WORD | st.text(max_size=4)).map(",".join)),
    "regdb": ("idx/train_visible_1.txt", st.lists(LINE, max_size=4).map("\n".join)),
    "llcm": ("idx/train_vis.txt", st.lists(LINE, max_size=4).map("\n".join)),
}


def read_or_refuse(name: str, root: Path) -> pd.DataFrame | None:
    """The index, every picture of which lies in ``root``; or None, for an error that says where."""
    try:
        table = DATASETS[name](root)
    except DatasetError as error:
        assert str(root) in str(error)
        return None
    assert fingerprint(table, root)  # and it can be stored
    for path in table["path"]:
        assert (root / path).resolve().is_relative_to(root.resolve()) and (root / path).is_file()
    return table


@few
@given(data=st.data())
@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_anything_is_an_index_or_an_error_that_names_the_file(name, data, request):
    root = request.getfixturevalue(name)
    (root.parent / "outside.bmp").touch()
    path, content = LISTS[name]
    whole = (root / path).read_bytes()
    drawn = data.draw(content.map(lambda text: text.encode("utf-8", "surrogatepass")) | BYTES)
    try:
        for lines in (drawn, whole + drawn):
            (root / path).write_bytes(lines)
            read_or_refuse(name, root)
    finally:
        (root / path).write_bytes(whole)


@few
@given(st.binary(min_size=1, max_size=20).filter(lambda b: not set(b) & {0, ord("/")}))
def test_a_file_of_any_name_is_read_or_refused(llcm, name):
    """Names are bytes: also such as are no text in UTF-8, or begin with a dot."""
    folder = llcm / "test_vis/cam1/0003"
    file = folder / (name + b".jpg").decode("utf-8", "surrogateescape")
    shutil.copy(next(folder.iterdir()), file)
    try:
        read_or_refuse("llcm", llcm)
    finally:
        file.unlink()


@pytest.mark.parametrize("letters", [string.digits, "09", "٣٤"])
@few
@given(data=st.data())
def test_a_camera_of_any_number_in_a_name(llcm, letters, data):
    """LLCM's training pictures tell their camera in their name, of up to 255 letters."""
    number = data.draw(st.text(letters, max_size=90))
    path = f"vis/0001/0001_c{number}_s1.jpg"
    shutil.copy(next((llcm / "vis/0001").iterdir()), llcm / path)
    listed = llcm / "idx/train_vis.txt"
    whole = listed.read_text()
    listed.write_text(f"{whole}{path} 0\n", encoding="utf-8")
    table = read_or_refuse("llcm", llcm)
    listed.write_text(whole)
    (llcm / path).unlink()
    ascii_number = number.isascii() and 0 < len(number) < 10
    assert table.set_index("path").camera[path] == (int(number) if ascii_number else 0)

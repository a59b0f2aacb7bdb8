"""evaluate against stored reference values, a naive reference and the real SYSU-MM01 inventory."""

import os
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import loadmat

from reid_core.retrieval import evaluate, metrics

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get("REID_REAL_DATA", ROOT.parent / "shared" / "real"))
OFFICIAL = REAL / "sysu_mm01_protocol"
MEASURES = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")
SYSU_CAMERAS = {"all": (1, 2, 4, 5), "indoor": (1, 2)}


def arrays(images, features):
    """Arguments of `evaluate` from (identity, camera, frame, modality) of each image."""
    identities, cameras, frames, modalities = zip(*images, strict=True)
    return {
        "features": features,
        "identities": np.array(identities),
        "cameras": np.array(cameras),
        "frames": np.array(frames),
        "modalities": np.array(modalities),
    }


def sysu_images(identities, count):
    """Images of ``count(identity, camera)`` frames a folder, infrared under cameras 3 and 6."""
    return [
        (identity, camera, frame, "infrared" if camera in (3, 6) else "visible")
        for identity in identities
        for camera in range(1, 7)
        for frame in range(1, count(identity, camera) + 1)
    ]


def paired_images(identities, cameras, count):
    """Images of both modalities under the same camera numbers, as in LLCM and RegDB."""
    return [
        (identity, camera, frame, modality)
        for modality in ("visible", "infrared")
        for identity in identities
        for camera in cameras[modality]
        for frame in range(1, count(identity, camera) + 1)
    ]


def alike(images, dimension=24, noise=2.0, seed=0):
    """Features that cluster by identity, with a gap between the modalities."""
    rng = np.random.default_rng(seed)
    identities = np.array([image[0] for image in images])
    infrared = np.array([image[3] == "infrared" for image in images])
    centre = rng.standard_normal((identities.max() + 1, dimension))
    gap = rng.standard_normal((2, dimension))
    noises = noise * rng.standard_normal((len(images), dimension))
    return centre[identities] + 0.6 * gap[infrared.astype(int)] + noises


def uneven(identity, camera):
    """Folders of 0 to 4 images; identity 3 has visible images under camera 2 only."""
    if identity == 3 and camera in (1, 4, 5):
        return 0
    return (identity * 7 + camera * 3) % 5 if identity % 4 == 0 else 1 + (identity + camera) % 4


@pytest.fixture
def sysu():
    images = sysu_images([1, 2, 3, 4, 8, 11, 12, 19], uneven)
    return arrays(images, alike(images))


@pytest.fixture
def llcm():
    cameras = {"visible": range(1, 10), "infrared": (1, 2, *range(4, 10))}
    images = paired_images([2, 5, 9, 14, 30], cameras, lambda i, c: (i + c) % 4)
    return arrays(images, alike(images))


def permutations_of(images, seed=0):
    """A rand_perm_cam as loadmat returns it, for the images given; no cells after identity 19."""
    rng = np.random.default_rng(seed)
    cameras = np.empty((6, 1), dtype=object)
    for camera in range(1, 7):
        cells = np.empty((19, 1), dtype=object)
        for identity in range(1, 20):
            n = sum(image[:2] == (identity, camera) for image in images)
            rows = [rng.permutation(n) + 1 for _ in range(10)]
            cells[identity - 1, 0] = np.array(rows, dtype=np.uint8).reshape(10, n)
        cameras[camera - 1, 0] = cells
    return {"__header__": b"", "rand_perm_cam": cameras}


def rows_of(data):
    columns = (data[key].tolist() for key in ("identities", "cameras", "frames", "modalities"))
    return list(zip(*columns, strict=True))


def agw_gallery(images, modality, cameras, trial):
    """The draw written as in the code of Ye et al.: over folders of sorted file names."""
    chosen = []
    random.seed(trial)
    for identity in sorted({image[0] for image in images}):
        for camera in cameras:
            files = sorted(
                f"{n:04d}" for i, c, n, m in images if (i, c, m) == (identity, camera, modality)
            )
            if files:
                chosen.append((identity, camera, int(random.choice(files)), modality))
    return [images.index(image) for image in chosen]


def official_gallery(images, permutations, cameras, trial, shots):
    chosen = []
    for identity in sorted({image[0] for image in images}):
        for camera in cameras:
            cells = permutations["rand_perm_cam"][camera - 1, 0]
            if identity <= len(cells):
                frames = cells[identity - 1, 0][trial, :shots].tolist()
                chosen += [(identity, camera, frame, "visible") for frame in frames]
    return [images.index(image) for image in chosen]


def naive_trial(features, images, queries, gallery, ignored, cmc):
    """Average measures of one gallery, one query and one image at a time."""
    unit = [row / np.sqrt((row * row).sum()) for row in np.asarray(features, dtype=np.float64)]
    places, precisions, penalties = [], [], []
    for q in queries:
        kept = [g for g in gallery if not ignored(images[q], images[g])]
        listed = [images[g][0] for g in sorted(kept, key=lambda g, q=q: -(unit[q] @ unit[g]))]
        if images[q][0] not in listed:
            continue
        before = listed[: listed.index(images[q][0])]
        places.append(1 + len(set(before) if cmc == "identities" else before))
        hits = [rank for rank, identity in enumerate(listed, 1) if identity == images[q][0]]
        precisions.append(np.mean([k / rank for k, rank in enumerate(hits, 1)]))
        penalties.append(len(hits) / hits[-1])
    rank = {f"rank{k}": np.mean([place <= k for place in places]) for k in (1, 5, 10, 20)}
    return {**rank, "mAP": np.mean(precisions), "mINP": np.mean(penalties)}, len(places)


def check_trials(result, data, queries, galleries, ignored, cmc="identities"):
    images = rows_of(data)
    assert len(result.trials) == len(galleries)
    for (_, row), gallery in zip(result.trials.iterrows(), galleries, strict=True):
        expected, n_valid = naive_trial(data["features"], images, queries, gallery, ignored, cmc)
        assert row[list(MEASURES)].to_dict() == pytest.approx(expected, abs=1e-12)
        counts = row[["queries", "valid_queries", "gallery_size"]].tolist()
        assert counts == [len(queries), n_valid, len(gallery)]
    assert list(result.mean) == list(MEASURES)
    assert result.mean == pytest.approx(result.trials[list(MEASURES)].mean().to_dict())


def same_room(query, gallery):
    return query[1] == 3 and gallery[1] == 2


def same_identity_and_camera(query, gallery):
    return query[:2] == gallery[:2]


@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_sysu_agw_agrees_with_the_naive_reference(sysu, mode):
    result = evaluate(**sysu, protocol="sysu", mode=mode, trials=4)
    images = rows_of(sysu)
    queries = [row for row, image in enumerate(images) if image[3] == "infrared"]
    galleries = [agw_gallery(images, "visible", SYSU_CAMERAS[mode], t) for t in range(4)]
    check_trials(result, sysu, queries, galleries, same_room)
    assert (result.protocol, result.mode, result.shots, result.gallery) == ("sysu", mode, 1, "agw")


@pytest.mark.parametrize("mode", ["all", "indoor"])
@pytest.mark.parametrize("shots", [1, 3])
def test_sysu_official_agrees_with_the_naive_reference(sysu, mode, shots):
    images = rows_of(sysu)
    permutations = permutations_of(images)
    request = {"protocol": "sysu", "mode": mode, "shots": shots, "gallery": "official"}
    result = evaluate(**sysu, **request, permutations=permutations)
    queries = [row for row, image in enumerate(images) if image[3] == "infrared"]
    galleries = [
        official_gallery(images, permutations, SYSU_CAMERAS[mode], t, shots) for t in range(10)
    ]
    check_trials(result, sysu, queries, galleries, same_room)
    assert (result.gallery, result.shots) == ("official", shots)
    bare = evaluate(**sysu, **request, permutations=permutations["rand_perm_cam"])
    pd.testing.assert_frame_equal(bare.trials, result.trials)


def test_official_leaves_out_identities_beyond_the_permutations():
    images = sysu_images([5, 6, 40], lambda identity, camera: 2)
    request = {"protocol": "sysu", "mode": "all", "gallery": "official"}
    found = evaluate(
        **arrays(images, alike(images)), **request, permutations=permutations_of(images)
    )
    assert set(found.trials.gallery_size) == {8}
    assert set(found.trials.valid_queries) == {8}


@pytest.mark.parametrize("mode", ["visible-to-infrared", "infrared-to-visible"])
def test_llcm_agrees_with_the_naive_reference(llcm, mode):
    result = evaluate(**llcm, protocol="llcm", mode=mode, trials=3)
    images = rows_of(llcm)
    asking, answering = mode.split("-to-")
    queries = [row for row, image in enumerate(images) if image[3] == asking]
    galleries = [agw_gallery(images, answering, range(1, 10), t) for t in range(3)]
    check_trials(result, llcm, queries, galleries, same_identity_and_camera)
    assert result.gallery == "agw"


@pytest.mark.parametrize("mode", ["visible-to-infrared", "infrared-to-visible"])
def test_regdb_agrees_with_the_naive_reference(mode):
    cameras = {"visible": (1,), "infrared": (2,)}
    data_images = paired_images(range(6), cameras, lambda i, c: 4 + (i + c) % 2)
    data = arrays(data_images, alike(data_images))
    asking, answering = mode.split("-to-")
    queries = [row for row, image in enumerate(data_images) if image[3] == asking]
    gallery = [row for row, image in enumerate(data_images) if image[3] == answering]
    result = evaluate(**data, protocol="regdb", mode=mode)
    check_trials(result, data, queries, [gallery], lambda query, image: False, cmc="images")
    assert result.gallery == "full"


def reference_features(query_ids, gallery_ids, spread):
    """The clusters that the stored reference values were computed on."""
    rng = np.random.default_rng(0)
    names, index = np.unique(np.concatenate([query_ids, gallery_ids]), return_inverse=True)
    centre = rng.standard_normal((len(names), 64))[index]
    gap = rng.standard_normal((2, 64))
    query_noise = rng.standard_normal((len(query_ids), 64))
    gallery_noise = rng.standard_normal((len(gallery_ids), 64))
    gap = np.repeat(gap, (len(query_ids), len(gallery_ids)), axis=0)
    return centre + 0.6 * gap + spread * np.concatenate([query_noise, gallery_noise])


def test_reference_values_of_a_sysu_like_set():
    queries = [
        (identity, camera, frame, "infrared")
        for identity in range(1, 41)
        for camera in (3, 6)
        if not (camera == 3 and identity % 5 == 0)
        for frame in range(1, 4 + identity % 4)
    ]
    gallery = [
        (identity, camera, 1, "visible")
        for identity in range(1, 41)
        for camera in (1, 2, 4, 5)
        if not (camera in (1, 2) and identity % 4 == 0) and (identity != 7 or camera == 2)
    ]
    features = reference_features([i[0] for i in queries], [i[0] for i in gallery], spread=1.5)
    result = evaluate(**arrays(queries + gallery, features), protocol="sysu", mode="all", trials=2)
    expected = [0.735849, 0.943396, 0.974843, 1.0, 0.643666, 0.445129]
    assert list(result.mean.values()) == pytest.approx(expected, abs=1e-6)
    assert result.trials.loc[0, ["queries", "valid_queries", "gallery_size"]].tolist() == [
        324,
        318,
        137,
    ]


def test_reference_values_of_a_regdb_like_set():
    labels = np.repeat(np.arange(206), 10)
    frames = np.tile(np.arange(1, 11), 206)
    images = [(i, 1, n, "visible") for i, n in zip(labels.tolist(), frames.tolist(), strict=True)]
    images += [(i, 2, n, "infrared") for i, n in zip(labels.tolist(), frames.tolist(), strict=True)]
    data = arrays(images, reference_features(labels, labels, spread=1.4))
    result = evaluate(**data, protocol="regdb", mode="visible-to-infrared")
    expected = [0.703398, 0.921845, 0.966019, 0.987864, 0.444107, 0.111877]
    assert list(result.mean.values()) == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def real():
    """The real test inventory (no pictures are needed to count) and the shipped permutations."""
    if not (OFFICIAL / "rand_perm_cam.mat").is_file():
        pytest.skip(f"no rand_perm_cam.mat in {OFFICIAL}: set REID_REAL_DATA to have this checked")
    permutations = loadmat(OFFICIAL / "rand_perm_cam.mat")
    cells = [camera.ravel() for camera in permutations["rand_perm_cam"].ravel()]

    def count(identity, camera):
        in_file = identity <= len(cells[camera - 1])
        return cells[camera - 1][identity - 1].shape[1] if in_file else 0

    identities = loadmat(OFFICIAL / "test_id.mat")["id"].ravel().tolist()
    images = sysu_images(identities, count)
    return arrays(images, alike(images, dimension=8).astype(np.float32)), permutations


@pytest.mark.parametrize(
    ("mode", "gallery", "shots", "size", "valid"),
    [
        ("all", "agw", 1, 301, 3803),
        ("all", "official", 1, 301, 3803),
        ("all", "official", 10, 3010, 3803),
        ("indoor", "agw", 1, 112, 2208),
        ("indoor", "official", 1, 112, 2208),
        ("indoor", "official", 10, 1120, 2208),
    ],
)
def test_counts_of_the_real_sysu_mm01(real, mode, gallery, shots, size, valid):
    data, permutations = real
    trials = evaluate(
        **data,
        protocol="sysu",
        mode=mode,
        gallery=gallery,
        shots=shots,
        permutations=permutations,
        trials=2,
    ).trials
    assert set(trials.queries) == {3803}
    assert set(trials.valid_queries) == {valid}
    assert set(trials.gallery_size) == {size}


def test_the_order_of_the_rows_does_not_matter(sysu, llcm):
    requests = [
        (sysu, {"protocol": "sysu", "mode": "all"}),
        (sysu, {"protocol": "sysu", "mode": "all", "gallery": "official", "shots": 2}),
        (llcm, {"protocol": "llcm", "mode": "infrared-to-visible"}),
    ]
    permutations = permutations_of(rows_of(sysu))
    for data, request in requests:
        order = np.random.default_rng(1).permutation(len(data["features"]))
        shuffled = {name: values[order] for name, values in data.items()}
        found = evaluate(**shuffled, **request, permutations=permutations).trials
        expected = evaluate(**data, **request, permutations=permutations).trials
        pd.testing.assert_frame_equal(found, expected)


def test_the_length_of_features_does_not_matter(sysu):
    lengths = np.random.default_rng(1).uniform(1e-3, 1e3, (len(sysu["features"]), 1))
    found = evaluate(
        **{**sysu, "features": sysu["features"] * lengths}, protocol="sysu", mode="all"
    )
    expected = evaluate(**sysu, protocol="sysu", mode="all")
    pd.testing.assert_frame_equal(found.trials, expected.trials)


def test_threads_and_blocks_change_nothing(sysu, monkeypatch):
    request = {"protocol": "sysu", "mode": "all", "trials": 7}
    one = evaluate(**sysu, **request)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)  # the tests themselves have one
    monkeypatch.setattr(metrics, "BLOCK_ENTRIES", 500)
    assert len(list(metrics.query_blocks(len(sysu["identities"]), 100))) > 5
    several = evaluate(**sysu, **request)
    pd.testing.assert_frame_equal(several.trials, one.trials)
    np.testing.assert_array_equal(several.cmc, one.cmc)


def test_a_draw_leaves_python_s_generator_alone(sysu):
    random.seed(5)
    state = random.getstate()
    evaluate(**sysu, protocol="sysu", mode="all")
    assert random.getstate() == state


def test_arrays_tensors_series_and_lists_are_the_same(sysu):
    expected = evaluate(**sysu, protocol="sysu", mode="all").trials
    labels = [name for name in sysu if name != "features"]
    shifted = range(100, 100 + len(sysu["features"]))
    series = {name: pd.Series(sysu[name], index=shifted) for name in labels}
    lists = {name: sysu[name].tolist() for name in labels}
    tensors = {name: torch.from_numpy(sysu[name]) for name in labels if name != "modalities"}
    for kind in (
        {"features": pd.DataFrame(sysu["features"]), **series},
        {"features": sysu["features"].tolist(), **lists},
        {**sysu, "features": torch.from_numpy(sysu["features"]).requires_grad_(), **tensors},
    ):
        found = evaluate(**kind, protocol="sysu", mode="all").trials
        pd.testing.assert_frame_equal(found, expected)


def test_every_invalid_request_says_what_is_expected(sysu):
    for request, message in (
        ({"protocol": "market"}, "protocol: found 'market', expected 'sysu' or 'regdb' or 'llcm'"),
        ({"mode": "outdoor"}, "mode: found 'outdoor', expected 'all' or 'indoor'"),
        ({"protocol": "regdb"}, "mode: found 'all', expected 'visible-to-infrared' or"),
        ({"gallery": "random"}, "gallery: found 'random', expected 'agw' or 'official'"),
        (
            {"protocol": "llcm", "mode": "visible-to-infrared", "gallery": "official"},
            "gallery: found 'official', expected 'agw'",
        ),
        ({"shots": 10}, "shots: found 10, expected 1"),
        ({"protocol": "regdb", "mode": "visible-to-infrared", "shots": 2}, "shots: found 2"),
        ({"shots": 0}, "shots: found 0, expected an integer from 1"),
        ({"trials": 2.5}, "trials: found 2.5, expected an integer from 1"),
        ({"gallery": "official"}, "permutations: found NoneType, expected rand_perm_cam"),
        ({"gallery": "official", "permutations": {"id": 1}}, "permutations: found NoneType"),
        (
            {"gallery": "official", "permutations": np.empty((5, 1), dtype=object)},
            r"permutations: found \(5, 1\), expected rand_perm_cam with a cell for each of 6",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(**sysu, **{"protocol": "sysu", "mode": "all", **request})


def test_every_invalid_array_says_what_is_expected(sysu):
    features, n = sysu["features"], len(sysu["features"])
    zero, infinite, missing = features.copy(), features.copy(), features.copy()
    zero[4] = 0
    infinite[5:7, 0] = -np.inf
    missing[3, 2] = np.nan
    outside, swapped = sysu["cameras"].copy(), sysu["modalities"].copy()
    outside[0] = 7
    swapped[0] = "infrared"
    for change, message in (
        ({"features": zero}, "features: found 1 zero rows, the first is row 4"),
        ({"features": infinite}, "features: found 2 NaN or infinite rows, the first is row 5"),
        ({"features": missing}, "features: found 1 NaN or infinite rows, the first is row 3"),
        ({"features": features[0]}, r"features: found float64 of shape \(24,\), expected a matrix"),
        ({"features": features.astype(complex)}, "features: found complex128"),
        ({"features": np.empty((n, 0))}, r"features: found shape \(\d+, 0\)"),
        ({"identities": sysu["identities"][1:]}, rf"identities: found .*, expected \({n},\)"),
        ({"cameras": sysu["cameras"][:, None]}, r"cameras: found shape \(\d+, 1\)"),
        ({"frames": sysu["frames"] / 2}, "frames: found float64, expected integers"),
        ({"frames": np.ones(n, int)}, "frames: found frame 1 of identity 1 under camera 1 more"),
        ({"modalities": sysu["cameras"]}, "modalities: found .*'1', .* expected 'visible'"),
        ({"cameras": outside}, "cameras: found camera 7 with modality 'visible' in row 0"),
        ({"modalities": swapped}, "cameras: found camera 1 with modality 'infrared' in row 0"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(**{**sysu, **change}, protocol="sysu", mode="all")


def test_a_side_without_images_is_refused(sysu):
    for kept in (sysu["modalities"] == "visible", sysu["modalities"] == "infrared"):
        one_side = {name: values[kept] for name, values in sysu.items()}
        with pytest.raises(ValueError, match=r"modalities: found \d+ query and \d+ gallery images"):
            evaluate(**one_side, protocol="sysu", mode="all")


def test_queries_that_nobody_answers_are_refused(sysu):
    strangers = sysu["identities"] + 50 * (sysu["modalities"] == "infrared")
    with pytest.raises(ValueError, match=r"found 0 of \d+ queries with an image"):
        evaluate(**{**sysu, "identities": strangers}, protocol="sysu", mode="all")


def test_permutations_of_other_images_are_refused(sysu):
    request = {"protocol": "sysu", "mode": "all", "gallery": "official"}
    permutations = permutations_of(rows_of(sysu))
    kept = ~((sysu["identities"] == 1) & (sysu["cameras"] == 2) & (sysu["frames"] == 1))
    without_one = {name: values[kept] for name, values in sysu.items()}
    message = r"permutations: found frames \[1\] of \(identity, camera\) \(1, 2\), expected only"
    with pytest.raises(ValueError, match=message):
        evaluate(**without_one, **request, permutations=permutations)
    with pytest.raises(
        ValueError, match=r"permutations: found shape \(10, 3\) .* at least 11 rows"
    ):
        evaluate(**sysu, **request, permutations=permutations, trials=11)
    permutations["rand_perm_cam"][0, 0][0, 0] = np.arange(1, 4)  # as squeeze_me leaves one image
    with pytest.raises(ValueError, match=r"permutations: found shape \(3,\)"):
        evaluate(**sysu, **request, permutations=permutations)
    for camera in permutations["rand_perm_cam"].ravel():
        for cell in range(len(camera)):
            camera[cell, 0] = np.empty((10, 0))
    with pytest.raises(ValueError, match=r"found 0 of \d+ queries with an image"):
        evaluate(**sysu, **request, permutations=permutations)


def test_cmc_is_rank_k_at_every_k():
    images = paired_images(range(30), {"visible": (1,), "infrared": (2,)}, lambda i, c: 2)
    data = arrays(images, alike(images, noise=3.0))
    result = evaluate(**data, protocol="regdb", mode="visible-to-infrared")
    assert len(result.cmc) == 20 and (np.diff(result.cmc) >= 0).all()
    for k in (1, 5, 10, 20):
        assert result.cmc[k - 1] == pytest.approx(result.mean[f"rank{k}"])

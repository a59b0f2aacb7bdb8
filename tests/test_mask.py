"""The human-region mask, by hand and on pictures where it must and must not find something."""

import math

import numpy as np
import pytest
import torch

from reid_core.data.images import decode
from reid_core.layers.mask import human_mask


def test_equals_eq_1_pixel_by_pixel():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 4, 3, dtype=torch.float64) * torch.tensor([1.0, 200.0]).view(
        2, 1, 1, 1
    )
    for bound, of in (
        ("none", lambda norm: norm),
        ("clamp", lambda norm: min(norm, 1.0)),
        ("scale", lambda norm: norm / math.sqrt(3)),
    ):
        found = human_mask(images, bound)
        assert found.shape == (2, 1, 4, 3)
        for image, mask in zip(images, found, strict=True):
            low, high = image.min().item(), image.max().item()
            for y in range(4):
                for x in range(3):
                    stretched = [(c - low) / (high - low) for c in image[:, y, x].tolist()]
                    norm = math.sqrt(sum(c * c for c in stretched))
                    assert mask[0, y, x].item() == pytest.approx(of(norm), rel=1e-12)


def test_by_hand():
    """Pixels 10, 20 and 30 of a gray picture stretch to 0, ½ and 1; the norm has a factor √3."""
    gray = torch.tensor([10.0, 20.0, 30.0]).expand(1, 3, 1, 3)
    printed = human_mask(gray, "none").flatten()
    torch.testing.assert_close(printed, torch.tensor([0, math.sqrt(3) / 2, math.sqrt(3)]))
    torch.testing.assert_close(
        human_mask(gray, "clamp").flatten(), torch.tensor([0, math.sqrt(3) / 2, 1])
    )
    torch.testing.assert_close(human_mask(gray, "scale").flatten(), torch.tensor([0, 0.5, 1]))


@pytest.mark.parametrize("bound", ["clamp", "scale", "none"])
def test_light_and_contrast_do_not_matter_and_a_neighbour_neither(bound):
    torch.manual_seed(0)
    images = torch.rand(3, 3, 6, 4)
    expected = human_mask(images, bound)
    torch.testing.assert_close(human_mask(5 + 40 * images, bound), expected)
    torch.testing.assert_close(human_mask(images[1:2], bound), expected[1:2])
    assert expected.min() >= 0


def test_mask_of_a_mirrored_picture_is_the_mirrored_mask_but_a_black_border_changes_it():
    """Why training mirrors pictures and does not pad them."""
    torch.manual_seed(0)
    images = 0.3 + torch.rand(2, 3, 6, 4)
    mask = human_mask(images, "none")
    torch.testing.assert_close(human_mask(images.flip(3), "none"), mask.flip(3))
    padded = human_mask(torch.nn.functional.pad(images, (1, 1, 1, 1)), "none")
    assert (padded[:, :, 1:-1, 1:-1] - mask).abs().mean() > 0.1


def test_colours_keep_their_ratio():
    """The range is the picture's, not each channel's: a red picture stays red."""
    red = torch.zeros(1, 3, 1, 2)
    red[0, 0, 0, 1], red[0, 1, 0, 1] = 1.0, 0.25
    assert human_mask(red, "none")[0, 0, 0, 1].item() == pytest.approx(math.hypot(1.0, 0.25))


def test_picture_of_one_colour_has_an_empty_mask():
    for value in (0.0, 255.0, -3.0):
        assert not human_mask(torch.full((1, 3, 4, 4), value)).any()


def test_unknown_bound_is_refused():
    with pytest.raises(ValueError, match="bound: found 'sqrt', expected clamp, scale or none"):
        human_mask(torch.rand(1, 3, 2, 2), "sqrt")


def test_on_real_crops_it_finds_people_in_infrared_and_the_background_in_daylight(real_data):
    """What notebook 15 counts, in the same rows and columns: the middle against the edges."""
    height, width = 96, 48
    third, tenth = width // 3, width // 10
    brighter = {"visible": 0, "infrared": 0}
    for path in sorted((real_data / "sysu_mm01_sample").glob("cam*/*/*.jpg")):
        pixels = torch.from_numpy(np.array(decode(path, height, width)))
        mask = human_mask(pixels.permute(2, 0, 1)[None].float())
        rows = mask[0, 0, height // 7 : -height // 16]
        sides = torch.cat([rows[:, :tenth], rows[:, -tenth:]], 1)
        infrared = path.parts[-3] in ("cam3", "cam6")
        brighter["infrared" if infrared else "visible"] += bool(
            rows[:, third:-third].mean() > sides.mean()
        )
    assert brighter["infrared"] == 20  # of 20
    assert brighter["visible"] < 8  # of 40

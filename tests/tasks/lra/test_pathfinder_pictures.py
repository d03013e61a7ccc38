import dataclasses

import numpy as np
import pytest

from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.lra.pathfinder_pictures import RECIPES, draw_picture, to_bytes
from seqzoo.tasks.lra.strokes import marker, paddle
from tests.golden import golden

EASY = dataclasses.replace(
    RECIPES[32], contour_length=6, distractor_length=2, distractors=10
)  # quick to draw


@pytest.fixture(scope="module")
def theirs():
    """Pictures of the published generator: 8 of contour length 14 and 6 of length 6."""
    return golden("lra_pathfinder/pathfinder32")


@pytest.fixture(scope="module")
def pictures():
    return [draw_picture(RECIPES[32], Draws("test", i)) for i in range(150)]


def test_the_scaling_to_bytes_is_the_published_one(theirs):
    for raw, image in zip(
        theirs["image_raw_contour14"], theirs["image_uint8_contour14"], strict=True
    ):
        assert np.abs(to_bytes(raw).astype(int) - image).max() <= 1  # the raw ones are float32 here
        assert image.max() == 255
        assert image.min() == 0


def test_discs_are_the_published_ones(theirs):
    patch = marker(1.5, 2)
    size, exact = len(patch), 0
    for raw, places in zip(
        theirs["image_raw_contour14"], theirs["marker_coords_contour14"], strict=True
    ):
        padded = np.pad(raw, size // 2, constant_values=9)
        for row, column in places:
            window = padded[row : row + size, column : column + size]
            assert (window >= patch - 0.02).all()  # ripples differ at the window's edge
            assert window[size // 2, size // 2] >= 1
            exact += np.abs(window - patch).min(1).max() < 1e-6
    assert exact > 5


def test_paddles_are_the_published_ones(theirs):
    """The two contours hold no value that a paddle of ours does not have."""
    ours = {0.0}
    for degrees in np.arange(-180, 180, 0.5):
        patch, region = paddle(np.radians(degrees), 2, 0.5, 1, 2)
        assert patch.shape == region.shape == (9, 9)
        ours |= set((1.5 * patch).astype(np.float32).round(4).ravel().tolist())
    for name in ("snake_masks_contour14", "snake_masks_contour6"):
        assert set(theirs[name].astype(np.float32).round(4).ravel().tolist()) <= ours


@pytest.mark.of_the_day
@pytest.mark.parametrize("length", [6, 14])
def test_statistics_are_those_of_the_published_generator(theirs, pictures, length):
    if length == 6:
        pictures = [draw_picture(EASY, Draws("easy", i)) for i in range(150)]
    images = np.stack([p.image for p in pictures])
    target = theirs[f"image_uint8_contour{length}"]
    # Their 8 and 6 pictures give means with standard errors of 0.6 grey levels and 0.8 percent.
    assert images.mean() == pytest.approx(target.mean(), abs=2.0)
    assert (images > 0).mean() == pytest.approx((target > 0).mean(), abs=0.03)
    lines = np.stack([p.contours for p in pictures])
    assert lines.mean() == pytest.approx(theirs[f"snake_masks_contour{length}"].mean(), rel=0.06)


def test_labels_are_balanced(pictures):
    labels = [p.label for p in pictures]
    assert abs(np.mean(labels) - 0.5) < 0.12  # three standard errors


def test_discs_sit_where_the_label_says(pictures):
    for p in pictures:
        assert (p.on[0] == p.on[1]) == bool(p.label)
        for (row, column), contour in zip(p.discs, p.on, strict=True):
            near = (slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2))
            assert p.contours[contour][near].max() > 0.2
            assert p.image[row, column] >= 0.9 * p.image.max() / max(p.raw.max(), 1)


def test_contours_keep_apart(theirs, pictures):
    """But for a contour's last paddle, which does not block yet when the other one grows."""

    def shared(contours):
        first, second = contours[:, 0] > 0.35, contours[:, 1] > 0.35
        return (first & second).sum() / (first | second).sum()

    ours = shared(np.stack([p.contours for p in pictures]))
    assert ours < 1.5 * shared(theirs["snake_masks_contour14"]) < 0.03


def test_a_contour_is_one_piece(pictures):
    """With its gaps of two margins closed, which the other contour never comes into."""
    from scipy import ndimage

    for p in pictures[:40]:
        for contour in p.contours:
            grown = ndimage.binary_dilation(contour > 0.2, np.ones((3, 3)), iterations=2)
            assert ndimage.label(grown, np.ones((3, 3)))[1] == 1


def test_pictures_are_pinned():
    import hashlib

    image = draw_picture(EASY, Draws("pin", 0)).image
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == "35b215a2f4874977"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "mean", "lit"), [(64, 13.7, 0.27), (128, 8.0, 0.14), (256, 2.9, 0.04)]
)
def test_larger_pictures_have_the_published_statistics(size, mean, lit):
    images = np.stack([draw_picture(RECIPES[size], Draws("large", i)).image for i in range(20)])
    assert images.mean() == pytest.approx(mean, rel=0.2)
    assert (images > 0).mean() == pytest.approx(lit, rel=0.25)

"""What is drawn, pixel by pixel where it matters."""

import numpy as np
import pytest

from mmscale.inference import Detections, draw_detections
from mmscale.inference.detections import encode_masks, keep_above
from mmscale.inference.drawing import colour_of, enlarge_small
from mmscale.inference.reading import as_picture


def found(*boxes, label=0, masks=None) -> Detections:
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return Detections(boxes, np.full(len(boxes), 0.5), np.full(len(boxes), label), masks)


def test_box_and_label_lie_where_they_should():
    grey = np.full((300, 400, 3), 90, np.uint8)
    drawn = draw_detections(grey, found((100, 150, 200, 250)), ('cat',))
    assert (grey == 90).all() and drawn.shape == grey.shape
    changed = np.argwhere((drawn != 90).any(axis=2))
    assert changed.min(axis=0)[1] == 100 and changed.max(axis=0).tolist() == [249, 199]
    assert 130 < changed.min(axis=0)[0] < 142  # the label stands above the box
    assert (drawn[160:240, 110:190] == 90).all()
    assert drawn[249, 150].tolist() == list(colour_of(0))[::-1]


@pytest.mark.parametrize(
    'box', [(0, 0, 20, 10), (380, 290, 400, 300), (0, 0, 400, 300), (5, 5, 5, 5), (400, 300, 400, 300)]
)
def test_labels_stay_inside(box):
    grey = np.full((300, 400, 3), 90, np.uint8)
    drawn = draw_detections(grey, found(box), ('a class with a rather long name',))
    text = np.argwhere((drawn != 90).any(axis=2))
    assert np.ptp(text[:, 1]) > 150  # all of it is in the picture


def test_small_images_are_enlarged():
    small, boxes = np.zeros((60, 100, 3), np.uint8), found((10, 20, 30, 40), masks=encode_masks(np.ones((1, 60, 100))))
    picture, enlarged = enlarge_small(small, boxes)
    assert picture.shape == (240, 400, 3) and enlarged.boxes.tolist() == [[40, 80, 120, 160]]
    assert enlarged.masks[0]['size'] == [240, 400]
    large = np.zeros((300, 400, 3), np.uint8)
    assert enlarge_small(large, boxes)[0] is large


def test_masks_are_tinted():
    mask = np.zeros((1, 300, 400))
    mask[0, 100:120, 300:350] = 1
    drawn = draw_detections(np.zeros((300, 400, 3), np.uint8), found((10, 20, 30, 40), masks=encode_masks(mask)))
    assert (drawn[100:120, 300:350] == [round(0.45 * value - 0.5) for value in colour_of(0)[::-1]]).all()
    assert not drawn[125:, 300:350].any()


def test_every_class_has_its_colour():
    assert len({colour_of(label) for label in range(100)}) == 100


@pytest.mark.parametrize(
    'image',
    [
        np.full((4, 5), 7.4, np.float32),
        np.full((4, 5, 1), 7, np.uint8),
        np.full((4, 5, 4), 7, np.uint8),
        np.full((4, 5, 3), 7 * 256 + 200, np.uint16),
        np.full((4, 5, 3), 7, np.uint8)[:, ::-1],
    ],
)
def test_any_image_can_be_drawn_on(image):
    picture = as_picture(image)
    assert picture.shape == (4, 5, 3) and picture.dtype == np.uint8 and (picture == 7).all()
    assert picture.flags.c_contiguous and not np.shares_memory(picture, image)


def test_what_is_no_number_is_no_detection():
    boxes, scores = np.array([[0, 0, 1, 1], [0, 0, np.nan, 1], [0, 0, 1, 1]]), np.array([0.3, 0.9, np.nan])
    assert keep_above(boxes, scores, 0.3).tolist() == [True, False, False]

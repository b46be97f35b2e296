"""The random crop of RT-DETR's recipe.

Papers: "SSD: Single Shot MultiBox Detector" (Liu et al., ECCV 2016), section 2.2, as torchvision's ``RandomIoUCrop``
and PaddleDetection's ``RandomCrop`` read it, with which the official models were trained.

Why not MMDetection's ``MinIoURandomCrop``: there *every* object must overlap with the crop by the threshold. The IoU of
a small object with a crop is below any of them, so among small objects no crop is ever accepted but those without a
threshold. Here one object that overlaps enough is enough.
"""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.structures.bbox import autocast_box_type

from mmscale.registry import TRANSFORMS

__all__ = ['RandomIoUCrop']


@TRANSFORMS.register_module()
class RandomIoUCrop(BaseTransform):
    """Crop an image around some of its objects.

    A threshold is drawn, and up to ``trials`` crops are tried for it: one is taken if it holds the centre of an object,
    and the IoU of such an object with the crop is the threshold at least. Objects whose centre is outside are dropped,
    the others are cut. If none is taken, the next threshold is drawn; a threshold of 1 leaves the image as it is. An
    image without objects is left as it is, too.

    Changes ``img``, ``img_shape``, ``gt_bboxes``, ``gt_bboxes_labels``, ``gt_ignore_flags`` and ``gt_masks``. Ignored
    objects do not count as objects.

    Args:
        prob (float): Probability of trying at all. Defaults to 1.0.
        min_ious (Sequence[float]): The thresholds. Defaults to (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0).
        scale_range (tuple[float, float]): Sides of a crop over the image's. Defaults to (0.3, 1.0).
        ratio_range (tuple[float, float]): Width of a crop over its height. Defaults to (0.5, 2.0).
        trials (int): Crops to try for a threshold. Defaults to 40.

    Raises:
        ValueError: If ``prob`` or a threshold is not from 0 to 1, or there is no threshold of 1 to end with.
    """

    def __init__(
        self,
        prob: float = 1.0,
        min_ious: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        scale_range: tuple[float, float] = (0.3, 1.0),
        ratio_range: tuple[float, float] = (0.5, 2.0),
        trials: int = 40,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'prob={prob} of RandomIoUCrop must be from 0 to 1')
        if 1 not in min_ious or not all(0 <= value <= 1 for value in min_ious):
            raise ValueError(f'min_ious={min_ious} of RandomIoUCrop must be from 0 to 1, with a 1 (no crop) among them')
        self.prob = prob
        self.min_ious = tuple(min_ious)
        self.scale_range = scale_range
        self.ratio_range = ratio_range
        self.trials = trials

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Crop, or leave as it is."""
        if np.random.rand() >= self.prob:
            return results
        height, width = results['img'].shape[:2]
        boxes = results['gt_bboxes'].tensor.numpy()
        ignored = results.get('gt_ignore_flags')
        objects = boxes if ignored is None else boxes[~np.asarray(ignored, dtype=bool)]
        crop = self._crop(objects, width, height) if len(objects) else None
        return results if crop is None else _cut(results, crop)

    def _crop(self, boxes: np.ndarray, width: int, height: int) -> np.ndarray | None:
        """Left, top, right, bottom of a crop; None for the whole image."""
        while True:
            threshold = np.random.choice(self.min_ious)
            if threshold >= 1:
                return None
            for _ in range(self.trials):
                w, h = (int(side * np.random.uniform(*self.scale_range)) for side in (width, height))
                if not (h and self.ratio_range[0] <= w / h <= self.ratio_range[1]):
                    continue
                left, top = (int(space * np.random.rand()) for space in (width - w, height - h))
                crop = np.array([left, top, left + w, top + h])
                inside = boxes[_centre_inside(boxes, crop)]
                if len(inside) and _ious(inside, crop).max() >= threshold:
                    return crop


def _centre_inside(boxes: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Which of the boxes ``(N, 4)`` have their centre in the crop, ``(N,)``."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > crop[:2]) & (centres < crop[2:])).all(axis=1)


def _ious(boxes: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """IoU of boxes ``(N, 4)`` with a crop, ``(N,)``."""
    sides = np.minimum(boxes[:, 2:], crop[2:]) - np.maximum(boxes[:, :2], crop[:2])
    common = sides.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return common / (areas + (crop[2:] - crop[:2]).prod() - common)


def _cut(results: dict, crop: np.ndarray) -> dict:
    """Cut an image and its annotations in MMDetection's dict."""
    left, top, right, bottom = (int(side) for side in crop)
    results['img'] = np.ascontiguousarray(results['img'][top:bottom, left:right])
    results['img_shape'] = results['img'].shape[:2]
    kept = _centre_inside(results['gt_bboxes'].tensor.numpy(), crop)
    boxes = results['gt_bboxes'][kept]
    boxes.translate_([-left, -top])
    boxes.clip_(results['img_shape'])
    results['gt_bboxes'] = boxes
    for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
        if key in results:
            results[key] = results[key][kept]
    if 'gt_masks' in results:
        results['gt_masks'] = results['gt_masks'][kept.nonzero()[0]].crop(np.array([left, top, right, bottom]))
    return results

"""What a detector found in one image, whichever kind of model it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

__all__ = ['Detections', 'clip_boxes', 'encode_masks', 'keep_above']


@dataclass
class Detections:
    """Objects in an image, in pixels of the image as its file has it.

    Attributes:
        boxes (np.ndarray): x1, y1, x2, y2, inside the image, float64, ``(N, 4)``.
        scores (np.ndarray): 0 to 1, ``(N,)``.
        labels (np.ndarray): Class indices from 0, ``(N,)``.
        masks (list[dict], optional): COCO's compressed RLE of each, where the model gives masks. Defaults to None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[dict] | None = None

    def __len__(self) -> int:
        return len(self.scores)


def keep_above(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Which detections count: those from a score on. One that is not a number counts never.

    Args:
        boxes (np.ndarray): ``(N, 4)``.
        scores (np.ndarray): ``(N,)``.
        threshold (float): The lowest score that counts.

    Returns:
        np.ndarray: Boolean, ``(N,)``.
    """
    return (scores >= threshold) & np.isfinite(boxes).all(axis=1)


def clip_boxes(boxes: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Boxes inside an image.

    Args:
        boxes (np.ndarray): ``(N, 4)``.
        size (Sequence[int]): The image's height and width.

    Example:
        >>> clip_boxes(np.array([[-3.0, 2.0, 50.0, 40.0]]), (30, 60))
        array([[ 0.,  2., 50., 30.]])
    """
    height, width = size
    return np.clip(boxes.astype(np.float64), 0, [width, height, width, height])


def encode_masks(masks: np.ndarray) -> list[dict]:
    """COCO's compressed RLE, with text where pycocotools has bytes, which JSON does not know.

    Args:
        masks (np.ndarray): ``(N, H, W)``, true inside.
    """
    encoded = [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks.astype(bool)]
    return [dict(size=list(map(int, rle['size'])), counts=rle['counts'].decode('ascii')) for rle in encoded]

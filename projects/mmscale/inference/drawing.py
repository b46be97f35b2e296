"""Detections drawn into an image: boxes, class names and scores that can be read on small images too."""

import colorsys
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from .detections import Detections

__all__ = ['draw_detections', 'enlarge_small']

SMALL = 480  # longer side of a picture below which a label would hide what it names; our choice
MASK_STRENGTH = 0.45


def enlarge_small(picture: np.ndarray, found: Detections) -> tuple[np.ndarray, Detections]:
    """Enlarge a small image by a whole number, for labels to be legible and not in the way.

    Args:
        picture (np.ndarray): BGR, uint8, ``(H, W, 3)``.
        found (Detections): What is drawn into it.

    Returns:
        tuple[np.ndarray, Detections]: Both enlarged, or as they were.
    """
    factor = SMALL // max(picture.shape[:2])
    if factor < 2:
        return picture, found
    picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    masks = found.masks and [_enlarge_mask(mask, factor) for mask in found.masks]
    return picture, Detections(found.boxes * factor, found.scores, found.labels, masks)


def draw_detections(picture: np.ndarray, found: Detections, classes: tuple[str, ...] = ()) -> np.ndarray:
    """Draw boxes, class names and scores, and masks where there are some; the surest detection on top.

    Args:
        picture (np.ndarray): BGR, uint8, ``(H, W, 3)``; it is not changed.
        found (Detections): In the picture's pixels.
        classes (tuple[str, ...]): Names of the classes; a class without one is called by its number. Defaults to ().

    Returns:
        np.ndarray: BGR, uint8, ``(H, W, 3)``.
    """
    height, width = picture.shape[:2]
    picture = picture.copy()
    order = np.argsort(found.scores, kind='stable')
    for index in order if found.masks else ():
        _tint(picture, coco_mask.decode(found.masks[index]).astype(bool), colour_of(int(found.labels[index])))
    thickness = max(1, round((height + width) / 500))
    canvas = Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    draw, font = ImageDraw.Draw(canvas), _font(min(28, max(10, round((height + width) / 95))))
    for index in order:
        label = int(found.labels[index])
        x1, y1, x2, y2 = (round(float(side)) for side in found.boxes[index])
        corners = (min(x1, width - 1), min(y1, height - 1), max(x1, min(x2, width) - 1), max(y1, min(y2, height) - 1))
        draw.rectangle(corners, outline=colour_of(label), width=thickness)
    for index in order:  # after the boxes: no line goes through a name
        label = int(found.labels[index])
        text = f'{classes[label] if label < len(classes) else label} {found.scores[index]:.2f}'
        _write(draw, font, text, found.boxes[index], colour_of(label), (height, width))
    return cv2.cvtColor(np.asarray(canvas), cv2.COLOR_RGB2BGR)


def colour_of(label: int) -> tuple[int, int, int]:
    """A bright colour, RGB; neighbours differ, since hues go round by the golden angle.

    Example:
        >>> colour_of(0), colour_of(1)
        ((255, 64, 64), (64, 120, 255))
    """
    hue, brightness = (label * 0.6180339887) % 1, 1.0 if label % 16 < 8 else 0.75
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.75, brightness))


def _write(draw, font, text: str, box: np.ndarray, colour: tuple, size: tuple[int, int]) -> None:
    """Write a label above its box, or inside where there is no room, and never beyond the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = max(0, min(round(float(box[0])), size[1] - wide))
    y = round(float(box[1])) - high
    y = y if y >= 0 else min(round(float(box[1])), size[0] - high)
    draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
    dark = (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) > 140
    draw.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)


def _tint(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Colour a mask's pixels, in place."""
    tint = np.array(colour[::-1], np.float32)
    picture[mask] = (picture[mask] * (1 - MASK_STRENGTH) + tint * MASK_STRENGTH).astype(np.uint8)


def _enlarge_mask(rle: dict, factor: int) -> dict:
    mask = np.kron(coco_mask.decode(rle), np.ones((factor, factor), np.uint8))
    return coco_mask.encode(np.asfortranarray(mask))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has more letters than OpenCV's strokes."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'), size)

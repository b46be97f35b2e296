"""Draws one scene of the generated small-object set: textured ground, clutter, and the objects to find.

What makes it a fair miniature of aerial images:

- Size: an image has a scale (a flying height); its objects are 8 to 52 pixels around that scale, mostly "small" in
  COCO's sense, some "medium".
- Context: objects of a class gather in groups and share their image's scale, so the surroundings help to tell what a
  few blurred pixels are.
- Clutter: rings, bars and half disks in the same colours are background. Colour hints at the class (hues overlap),
  shape decides.
- Image quality: anti-aliased edges, moderate contrast, blur and sensor noise.

Coordinates are continuous, as in COCO: pixel i covers [i, i + 1]. Everything is drawn from the generator that is passed
in, and nothing else.
"""
import math
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ['CLASSES', 'MAX_EXTENT', 'Shape', 'draw_scene']

CLASSES = ('disk', 'square', 'triangle', 'cross')
MIN_EXTENT, MAX_EXTENT = 9.0, 52.0  # diameter of the circle around an object, in pixels
_CROSS_ARM = 0.36  # half width of a cross's arm, in its half length
_MARGIN = 2.0  # pixels between two objects, and between an object and the border
_TRIES = 60
_NOISE = 5.0  # standard deviation of the sensor noise, in grey levels
_HUES, _HUE_SPREAD = (0.0, 90.0, 180.0, 270.0), 28.0  # degrees; neighbouring classes overlap


@dataclass
class Shape:
    """An object: its class and its outline.

    Args:
        label (int): Index into ``CLASSES``.
        polygon (np.ndarray): Corners, shape (N, 2), x and y in pixels.
    """
    label: int
    polygon: np.ndarray

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom: the tightest box around the outline."""
        return (*self.polygon.min(axis=0).tolist(), *self.polygon.max(axis=0).tolist())

    @property
    def area(self) -> float:
        """Area inside the outline (shoelace formula)."""
        x, y = self.polygon.T
        return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def draw_scene(rng: np.random.Generator, size: int, count: int) -> tuple[np.ndarray, list[Shape]]:
    """Draws one image.

    Args:
        rng (np.random.Generator): The source of everything random.
        size (int): Side of the image in pixels.
        count (int): Objects wanted; fewer come out where there is no room left.

    Returns:
        tuple[np.ndarray, list[Shape]]: The image, uint8 BGR of shape (size, size, 3), and its objects.

    Example:
        >>> image, shapes = draw_scene(np.random.default_rng(0), size=160, count=4)
        >>> image.shape, len(shapes)
        ((160, 160, 3), 4)
    """
    canvas = _draw_ground(rng, size)
    _draw_clutter(rng, canvas)
    shapes = _place_objects(rng, size, count)
    for shape in shapes:
        hue = _HUES[shape.label] + rng.normal(0, _HUE_SPREAD)
        _paint(canvas, shape.polygon, _pick_colour(rng, hue, canvas, shape.polygon.mean(axis=0)))
    canvas = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.4, 0.8)))
    canvas += _NOISE * rng.standard_normal((size, size, 1), dtype=np.float32)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8), shapes


def _outline(label: int, centre: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Corners of a shape whose corners (or rim) lie on a circle."""
    if label == 0:
        turns = np.arange(32) / 32
    elif label in (1, 2):
        turns = np.arange(4) / 4 if label == 1 else np.arange(3) / 3
    else:
        arm = math.atan(_CROSS_ARM) / (2 * math.pi)
        turns = (np.arange(4)[:, None] / 4 + np.array([-arm, arm, 0.125])).ravel()
    radii = np.full(len(turns), radius)
    if label == 3:
        radii[2::3] = radius * math.sqrt(2) * _CROSS_ARM / math.hypot(1, _CROSS_ARM)
    directions = 2 * math.pi * turns + angle
    return centre + radii[:, None] * np.stack([np.cos(directions), np.sin(directions)], axis=1)


def _place_objects(rng: np.random.Generator, size: int, count: int) -> list[Shape]:
    """Objects in groups, apart from each other and from the border."""
    scale = math.exp(rng.uniform(math.log(14), math.log(36)))
    shapes, centres = [], []
    while len(shapes) < count:
        in_group = bool(shapes) and rng.random() < 0.55
        friend = int(rng.integers(len(shapes))) if in_group else None
        label = shapes[friend].label if in_group else int(rng.integers(len(CLASSES)))
        shape = None
        for _ in range(_TRIES):
            extent = float(np.clip(scale * math.exp(rng.normal(0, 0.3)), MIN_EXTENT, MAX_EXTENT))
            low, high = extent / 2 + _MARGIN, size - extent / 2 - _MARGIN
            centre = rng.uniform(low, high, 2)
            if in_group:
                centre = np.clip(centres[friend] + rng.normal(0, 1.8 * scale, 2), low, high)
            candidate = Shape(label, _outline(label, centre, extent / 2, rng.uniform(0, 2 * math.pi)))
            if all(_apart(candidate.box, other.box) for other in shapes):
                shape = candidate
                break
        if shape is None:
            break
        shapes.append(shape)
        centres.append(centre)
    return shapes


def _apart(a: tuple, b: tuple) -> bool:
    return (a[2] + _MARGIN <= b[0] or b[2] + _MARGIN <= a[0] or a[3] + _MARGIN <= b[1] or b[3] + _MARGIN <= a[1])


def _draw_ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """Two terrains with a soft border, each with its own tint, under a texture of several grain sizes."""
    texture = sum(_field(rng, size, cells) * weight for cells, weight in ((5, 1.0), (12, 0.7), (32, 0.5), (80, 0.4)))
    terrain = np.clip(_field(rng, size, 4) * 3 + 0.5, 0, 1)[..., None]
    first, second = (_colour(rng.uniform(0, 360), rng.uniform(0.08, 0.3), rng.uniform(80, 160)) for _ in range(2))
    return second + terrain * (first - second) + 14 * texture[..., None]


def _field(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise of about unit amplitude with ``cells`` grains along a side."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _draw_clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Roads, and shapes that resemble the objects but are none: rings, bars and half disks."""
    size = len(canvas)
    for _ in range(int(rng.integers(1, 4))):
        start, angle, width = rng.uniform(0, size, 2), rng.uniform(0, 2 * math.pi), rng.uniform(2, 8)
        colour = _colour(rng.uniform(0, 360), 0.1, rng.uniform(70, 180))
        _paint(canvas, _bar(start, angle, 1.5 * size, width), colour, opacity=0.7)
    for _ in range(round(rng.integers(5, 12) * (size / 320)**2)):
        centre, angle = rng.uniform(0, size, 2), rng.uniform(0, 2 * math.pi)
        radius = rng.uniform(MIN_EXTENT, 30) / 2
        colour = _pick_colour(rng, rng.uniform(0, 360), canvas, centre)
        kind = int(rng.integers(3))
        rim = centre + radius * np.stack([np.cos(angle + np.arange(32) * math.pi / 16),
                                          np.sin(angle + np.arange(32) * math.pi / 16)], axis=1)
        if kind == 0:  # a ring: its hole winds the other way round
            _paint(canvas, [rim, (centre + 0.62 * (rim - centre))[::-1]], colour)
        elif kind == 1:
            _paint(canvas, _bar(centre, angle, 2 * radius, max(2.0, 0.45 * radius)), colour)
        else:
            _paint(canvas, rim[:17], colour)


def _bar(centre: np.ndarray, angle: float, length: float, width: float) -> np.ndarray:
    along = np.array([math.cos(angle), math.sin(angle)]) * length / 2
    across = np.array([-math.sin(angle), math.cos(angle)]) * width / 2
    return centre + np.stack([along + across, along - across, -along - across, -along + across])


def _paint(canvas: np.ndarray, polygon: np.ndarray | list[np.ndarray], colour: np.ndarray,
           opacity: float = 1.0) -> None:
    """Fills polygons (even-odd) with smooth edges: each pixel takes the share of it that is covered, in 1/16 steps."""
    polygons = polygon if isinstance(polygon, list) else [polygon]
    corners = np.concatenate(polygons)
    height, width = canvas.shape[:2]
    x1, y1 = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    x2, y2 = np.minimum(np.ceil(corners.max(axis=0)).astype(int), (width, height))
    if x2 <= x1 or y2 <= y1:
        return
    fine = np.zeros(((y2 - y1) * 4, (x2 - x1) * 4), np.uint8)
    # fillPoly puts integer coordinates on pixel centres, and knows fractions of a pixel as fixed point numbers
    fixed = [np.rint(((points - (x1, y1)) * 4 - 0.5) * 16).astype(np.int32) for points in polygons]
    cv2.fillPoly(fine, fixed, 255, shift=4)
    cover = cv2.resize(fine, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)[..., None] * np.float32(opacity / 255)
    canvas[y1:y2, x1:x2] += cover * (colour - canvas[y1:y2, x1:x2])


def _pick_colour(rng: np.random.Generator, hue: float, canvas: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A colour of that hue that stands out moderately from the ground at a point."""
    x, y = np.clip(at.astype(int), 0, len(canvas) - 1)
    ground = float(canvas[y, x].mean())
    step = rng.uniform(30, 75)
    return _colour(hue, rng.uniform(0.35, 0.7), ground + step if ground < 120 else ground - step)


def _colour(hue: float, saturation: float, grey: float) -> np.ndarray:
    """BGR of a hue in degrees whose mean is ``grey``: a grey level plus a turn of the colour circle."""
    phases = np.radians(hue) - np.array([4, 2, 0]) * math.pi / 3
    return (grey * (1 + saturation * np.cos(phases))).astype(np.float32)

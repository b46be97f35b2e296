"""Figures of one data set: sizes against strides, numbers against limits, classes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmscale.evaluation.matching import AREAS

from .detector import Levels, Limit
from .loading import Boxes

__all__ = [
    'measure_classes', 'measure_crowding', 'measure_levels', 'measure_sizes', 'measure_strides', 'per_draw', 'quantiles'
]  # fmt: skip

QUANTILES = {'min': 0, '5 %': 0.05, 'median': 0.5, '95 %': 0.95, 'max': 1}


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Smallest, largest and three between; empty without values."""
    return {} if not len(values) else {name: round(float(np.quantile(values, at)), 2) for name, at in QUANTILES.items()}


def measure_sizes(boxes: Boxes, draws: int = 1) -> dict:
    """How large objects are: by COCO's bins, and quantiles of sqrt(area).

    Args:
        boxes (Boxes): The objects.
        draws (int): How often each occurs, in case of random resizing; counts are means over it. Defaults to 1.
    """
    areas = boxes.root_areas**2
    bins = [*AREAS[:-1], (AREAS[-1][0], AREAS[-1][1], np.inf)]  # larger than COCO's largest is large too
    counts = {name: per_draw(((areas >= low) & (areas < high)).sum(), draws) for name, low, high in bins}
    return dict(objects=per_draw(len(areas), draws), **counts, sqrt_area=quantiles(boxes.root_areas),
                min_side=quantiles(boxes.min_sides))  # fmt: skip


def measure_strides(boxes: Boxes, strides: Sequence[float], draws: int = 1) -> list[dict]:
    """How many objects are smaller than one cell: their shorter side, or the root of their area, is below the stride.

    Args:
        boxes (Boxes): The objects as the network gets them.
        strides (Sequence[float]): The strides; a pixel (1) and a stride-4 cell are added.
        draws (int): As in :func:`measure_sizes`. Defaults to 1.
    """
    total, rows = len(boxes.labels), []
    for stride in sorted({1, 4, *strides}):
        thin, small = int((boxes.min_sides < stride).sum()), int((boxes.root_areas < stride).sum())
        rows.append(dict(stride=stride, min_side=per_draw(thin, draws), min_side_share=_share(thin, total),
                         sqrt_area=per_draw(small, draws), sqrt_area_share=_share(small, total)))  # fmt: skip
    return rows


def measure_levels(levels: Sequence[Levels], draws: int = 1) -> list[dict]:
    """How many objects fall to each level."""
    found = []
    for item in levels:
        counts = np.bincount(item.level, minlength=len(item.strides))
        found.append(dict(rule=item.rule, strides=list(item.strides),
                          objects=[per_draw(count, draws) for count in counts.tolist()]))  # fmt: skip
    return found


def measure_crowding(boxes: Boxes, limits: Sequence[Limit]) -> dict:
    """Objects per image, and how many images have more than a limit.

    Args:
        boxes (Boxes): The objects as annotated.
        limits (Sequence[Limit]): The limits.
    """
    num_images = len(boxes.shapes)
    numbers = np.bincount(boxes.images, minlength=num_images)
    groups = Counter(zip(boxes.images.tolist(), boxes.labels.tolist(), strict=True))
    of_class = np.zeros(num_images, dtype=int)
    for (image, _), number in groups.items():
        of_class[image] = max(of_class[image], number)
    rows = []
    for limit in limits:
        many = of_class if limit.per_class else numbers
        rows.append(dict(name=limit.name, value=limit.value, per='image and class' if limit.per_class else 'image',
                         images=int((many > limit.value).sum()),
                         most=int(many.max(initial=0))))  # fmt: skip
    mean = round(float(numbers.mean()), 2) if num_images else 0.0
    return dict(objects_per_image=quantiles(numbers), mean=mean, limits=rows,
                without_objects=int((numbers == 0).sum()))  # fmt: skip


def measure_classes(boxes: Boxes, classes: Sequence[str]) -> list[dict]:
    """Objects and images of every class.

    Args:
        boxes (Boxes): The objects as annotated.
        classes (Sequence[str]): The data set's classes.
    """
    rows, total = [], len(boxes.labels)
    for label, name in enumerate(classes):
        ours = boxes.labels == label
        rows.append(dict(name=name, objects=int(ours.sum()), share=_share(int(ours.sum()), total),
                         images=len(np.unique(boxes.images[ours])),
                         median_sqrt_area=_median(boxes.root_areas[ours])))  # fmt: skip
    return rows


def per_draw(count: int, draws: int) -> float:
    """A count's mean over draws, whole where it is."""
    mean = round(int(count) / draws, 1)
    return int(mean) if mean == int(mean) else mean


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _median(values: np.ndarray) -> float | None:
    return round(float(np.median(values)), 1) if len(values) else None

"""Detections as one COCO file: images, categories, and annotations that carry a score."""

import json
from os import PathLike
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mmscale.files import write_text

from .detections import Detections

__all__ = ['CocoResults']


class CocoResults:
    """Collects detections and writes them.

    ``pycocotools.coco.COCO`` loads the file, and its ``loadRes`` takes the list under ``annotations``. All ids count
    from 1; a category's id is the class's index plus 1.

    Args:
        classes (tuple[str, ...]): Names of the classes; one without a name is called by its index.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._images: list[dict] = []
        self._annotations: list[dict] = []
        self._number_of_classes = len(classes)

    def add(self, file_name: str, size: tuple[int, int], found: Detections, **fields: Any) -> None:
        """Add an image.

        Args:
            file_name (str): The image, or the video that it is a frame of.
            size (tuple[int, int]): Height and width.
            found (Detections): What was found in it.
            **fields: More to be kept with the image, such as a frame's index.
        """
        image_id = len(self._images) + 1
        self._images.append(dict(id=image_id, file_name=file_name, width=size[1], height=size[0], **fields))
        self._number_of_classes = max([self._number_of_classes, *(int(label) + 1 for label in found.labels)])
        for index, (box, score, label) in enumerate(zip(found.boxes, found.scores, found.labels, strict=True)):
            x1, y1, x2, y2 = box.tolist()
            annotation = dict(
                id=len(self._annotations) + 1,
                image_id=image_id,
                category_id=int(label) + 1,
                bbox=[round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
                area=round((x2 - x1) * (y2 - y1), 3),
                iscrowd=0,
                score=round(float(score), 6),
            )
            if found.masks is not None:
                mask = found.masks[index]
                annotation.update(segmentation=mask, area=int(np.ravel(coco_mask.area(mask))[0]))
            self._annotations.append(annotation)

    def write(self, path: str | PathLike, info: dict) -> None:
        """Write the file whole or not at all, one image or annotation to a line.

        Args:
            path (str | PathLike): The file; one that exists is replaced.
            info (dict): What made it.
        """
        names = [
            self._classes[index] if index < len(self._classes) else str(index)
            for index in range(self._number_of_classes)
        ]
        categories = [dict(id=index + 1, name=name) for index, name in enumerate(names)]
        parts = [f'"info": {json.dumps(info)}']
        for key, rows in (('images', self._images), ('categories', categories), ('annotations', self._annotations)):
            lines = ',\n'.join(json.dumps(row, allow_nan=False) for row in rows)
            parts.append(f'"{key}": [\n{lines}\n]' if rows else f'"{key}": []')
        write_text(path, '{' + ',\n'.join(parts) + '}\n')

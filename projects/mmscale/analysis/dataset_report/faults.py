"""Faulty boxes, as they stand in the annotation files: a data set drops or mends many of them without naming them."""

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from mmdet.datasets import CocoDataset, XMLDataset

from mmscale.datasets.reading import read_json, read_xml

from .loading import Split, leaves, quiet

__all__ = ['FAULTS', 'AnnotatedImage', 'annotated_images', 'find_faults', 'kept_images']

FAULTS = {
    'not finite': 'a side or corner is no finite number',
    'zero area': 'width or height is zero or negative',
    'thin': 'width or height is below one pixel',
    'outside': 'less than one pixel of it lies in the image',
    'cut': 'more than one pixel of it lies outside the image',
    'twice': 'the same box of the same class again',
    'two classes': 'the same box with another class again',
}


@dataclass
class AnnotatedImage:
    """One image as its annotation file has it.

    Args:
        name (str): Its file's name, without folder.
        path (str): Its file.
        width (int): As annotated.
        height (int): As annotated.
        boxes (list[tuple]): (x1, y1, x2, y2, class).
        source (str): The annotation file.
        backend_args (dict, optional): Arguments of MMEngine's file backend.
    """

    name: str
    path: str
    width: int
    height: int
    boxes: list[tuple] = field(default_factory=list)
    source: str = ''
    backend_args: dict | None = None


def annotated_images(split: Split) -> list[AnnotatedImage]:
    """All images of the split's annotation files, also those that ``filter_cfg`` leaves out."""
    return [image for leaf in leaves(split.dataset) for image in _read_leaf(leaf)]


def kept_images(split: Split) -> list[str]:
    """The files of the images that are left after ``filter_cfg``."""
    return [split.dataset.get_data_info(index)['img_path'] for index in range(len(split.dataset))]


def _read_leaf(leaf) -> Iterator[AnnotatedImage]:
    with quiet():  # what it has to warn of, it warned of when it was built
        infos = leaf.load_data_list()
    infos = [part for info in infos for part in (info if isinstance(info, list) else [info])]
    by_image = _coco_boxes(leaf) if isinstance(leaf, CocoDataset) else None
    for info in infos:
        if by_image is not None:
            boxes = by_image.get(info['img_id'], [])
        elif isinstance(leaf, XMLDataset) and 'xml_path' in info:
            boxes = list(_xml_boxes(info['xml_path'], leaf))
        else:
            classes = leaf.metainfo.get('classes') or ()
            boxes = [(*item['bbox'], classes[item['bbox_label']] if item['bbox_label'] < len(classes) else '?')
                     for item in info.get('instances', []) if 'bbox' in item]  # fmt: skip
        path = info['img_path']
        yield AnnotatedImage(os.path.basename(path), path, info['width'], info['height'], boxes,
                             str(getattr(leaf, 'ann_file', '')), getattr(leaf, 'backend_args', None))  # fmt: skip


def _coco_boxes(leaf) -> dict:
    """Boxes by image id, of the data set's classes, straight from the file."""
    content = read_json(leaf.ann_file, 'annotation file', getattr(leaf, 'backend_args', None))
    names = {item['id']: item['name'] for item in content.get('categories', [])}
    boxes = {}
    for item in content.get('annotations', []):
        name = names.get(item.get('category_id'))
        if item.get('bbox') and name in leaf.metainfo['classes']:
            x, y, width, height = item['bbox'][:4]
            boxes.setdefault(item['image_id'], []).append((x, y, x + width, y + height, name))
    return boxes


def _xml_boxes(path: str, leaf) -> Iterator[tuple]:
    """The objects of the data set's classes; coordinates count from 0, as in the data set."""
    root, _ = read_xml(path, 'annotation file', getattr(leaf, 'backend_args', None))
    for item in [] if root is None else root.findall('object'):
        bounds, name = item.find('bndbox'), (item.findtext('name') or '').strip()
        if bounds is not None and name in leaf.metainfo['classes']:
            sides = [float(bounds.findtext(side) or 'nan') - 1 for side in ('xmin', 'ymin', 'xmax', 'ymax')]
            yield (*sides, name)


def find_faults(images: list[AnnotatedImage]) -> dict[str, list[dict]]:
    """The faulty boxes by kind, of :data:`FAULTS`; each box under the first that applies, and under 'twice' once per
    extra copy.

    Args:
        images (list[AnnotatedImage]): The images.

    Example:
        >>> image = AnnotatedImage('a.jpg', 'a.jpg', 64, 48, [(1, 1, 1, 9, 'disk'), (1, 1, 9, 9, 'disk')])
        >>> {kind: len(found) for kind, found in find_faults([image]).items() if found}
        {'zero area': 1}
    """
    found = {kind: [] for kind in FAULTS}
    for image in images:
        seen: Counter = Counter()
        for box in image.boxes:
            kind = _fault(box[:4], image.width, image.height)
            if seen[box]:
                kind = kind or 'twice'
            elif seen[box[:4]]:
                kind = kind or 'two classes'
            seen.update((box, box[:4]))
            if kind:
                sides = [float(side) if math.isfinite(side) else None for side in box[:4]]  # JSON knows no NaN
                found[kind].append(dict(image=image.name, box=sides, label=box[4]))
    return found


def _fault(box: tuple, width: float, height: float) -> str | None:
    """The kind of a box's fault, None if it has none."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return 'not finite'
    if x2 <= x1 or y2 <= y1:
        return 'zero area'
    if min(x2 - x1, y2 - y1) < 1 - 1e-6:
        return 'thin'
    if min(x2, width) - max(x1, 0) < 1 - 1e-6 or min(y2, height) - max(y1, 0) < 1 - 1e-6:
        return 'outside'
    return 'cut' if max(-x1, -y1, x2 - width, y2 - height) > 1 else None

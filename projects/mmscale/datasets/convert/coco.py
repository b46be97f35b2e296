"""Collects images and boxes into one COCO json file: the checks and counts that all converters share."""
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .image_size import read_image_size

__all__ = ['CocoBuilder', 'Summary', 'parse_number', 'read_lines', 'write_json', 'write_text']


@dataclass
class Summary:
    """What a conversion kept and what it left out.

    Args:
        name (str): What was converted, for the printout.
        boxes (dict[str, int]): Boxes kept, per class in the order of the classes.
        images (int): Images, with and without objects. Defaults to 0.
        images_without_objects (int): Images that carry no box. Defaults to 0.
        counts (Counter): Everything else worth a line: boxes dropped or clipped, ignored regions.
        path (Path, optional): The json file that was written. Defaults to None.
    """
    name: str
    boxes: dict[str, int]
    images: int = 0
    images_without_objects: int = 0
    counts: Counter = field(default_factory=Counter)
    path: Path | None = None

    def __str__(self) -> str:
        width = max(len(name) for name in self.boxes)
        lines = [f'{self.name}: {self.images} images ({self.images_without_objects} without objects), '
                 f'{sum(self.boxes.values())} boxes']
        lines += [f'  {name:<{width}}  {count}' for name, count in self.boxes.items()]
        lines += [f'  {what}: {count}' for what, count in sorted(self.counts.items())]
        if self.path is not None:
            lines.append(f'  written to {self.path}')
        return '\n'.join(lines)


class CocoBuilder:
    """A COCO data set in the making.

    Category ids run from 1 in the order of the classes, image and annotation ids from 1 in the order of arrival.

    Args:
        name (str): What is being converted, for the summary and the warnings.
        classes (Sequence[str]): The class names.
        decode (bool): Decode every image to prove that it is whole. Defaults to False.

    Example:
        >>> builder = CocoBuilder('mine', ('cat', 'dog'))
        >>> image = builder.add_image_of_size('a.jpg', 100, 50)
        >>> builder.add_box(image, (90, 10, 20, 20), 'dog', where='a.txt, line 1')  # half of it outside
        True
        >>> builder.document()['annotations'][0]['bbox']
        [90, 10, 10, 20]
    """

    #: what a counted event is called in the summary
    DEGENERATE = 'boxes without area, dropped'
    OUTSIDE = 'boxes outside the image, dropped'
    CLIPPED = 'boxes clipped to the image'

    def __init__(self, name: str, classes: Sequence[str], decode: bool = False) -> None:
        check_classes(classes)
        self.name, self.classes, self.decode = name, tuple(classes), decode
        self.images, self.annotations = [], []
        self.counts, self.first = Counter(), {}

    def add_image(self, path: str | Path, file_name: str | None = None) -> dict:
        """Adds an image file; its name in the json is ``file_name``, by default the bare name."""
        width, height = read_image_size(path, self.decode)
        return self.add_image_of_size(file_name or Path(path).name, width, height)

    def add_image_of_size(self, file_name: str, width: int, height: int) -> dict:
        """Adds an image whose size is known."""
        image = dict(id=len(self.images) + 1, file_name=file_name, width=width, height=height)
        self.images.append(image)
        return image

    def add_box(self, image: dict, xywh: Iterable[float], category: str, where: str, **extra) -> bool:
        """Adds a box, clipped to its image; a box without area or wholly outside is counted and dropped.

        Args:
            image (dict): The image, as ``add_image`` returned it.
            xywh (Iterable[float]): Left, top, width, height in pixels.
            category (str): The class, one of ``classes``.
            where (str): File and line, for messages.
            **extra: Further fields of the annotation (``iscrowd``, ``difficult`` ...).

        Returns:
            bool: Whether the box was kept.
        """
        bbox = self.clip(image, xywh, where)
        if bbox is None:
            return False
        self.annotations.append(dict(
            id=len(self.annotations) + 1, image_id=image['id'], category_id=self.classes.index(category) + 1,
            bbox=bbox, area=bbox[2] * bbox[3], **dict(dict(iscrowd=0), **extra)))
        return True

    def clip(self, image: dict, xywh: Iterable[float], where: str) -> list[float] | None:
        """The part of a box inside its image, or None (and counted) where nothing is left."""
        x, y, w, h = xywh
        if w <= 0 or h <= 0:
            return self.count(self.DEGENERATE, where)
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, image['width']), min(y + h, image['height'])
        if x2 <= x1 or y2 <= y1:
            return self.count(self.OUTSIDE, where)
        if (x1, y1, x2, y2) != (x, y, x + w, y + h):
            self.count(self.CLIPPED, where)
        return [x1, y1, x2 - x1, y2 - y1]

    def count(self, what: str, where: str | None = None) -> None:
        """Counts an event; with ``where`` it is worth a warning, which will name the first place."""
        self.counts[what] += 1
        if where is not None:
            self.first.setdefault(what, where)

    def document(self) -> dict:
        """The COCO json as a dictionary."""
        categories = [dict(id=i, name=name) for i, name in enumerate(self.classes, 1)]
        return dict(info=dict(description=self.name), images=self.images, annotations=self.annotations,
                    categories=categories)

    def finish(self, path: str | Path) -> Summary:
        """Writes the json in one step, and warns once per kind of event."""
        if not self.images:
            raise ValueError(f'{self.name}: there is no image, so there is nothing to write to {path}')
        write_json(path, self.document())
        for what, where in self.first.items():
            warnings.warn(f'{self.name}: {self.counts[what]} {what} (the first: {where})', stacklevel=3)
        return self.summary(Path(path))

    def summary(self, path: Path | None = None) -> Summary:
        """The counts so far."""
        per_class = Counter(annotation['category_id'] for annotation in self.annotations)
        boxes = {name: per_class[i] for i, name in enumerate(self.classes, 1)}
        empty = len(self.images) - len({annotation['image_id'] for annotation in self.annotations})
        return Summary(self.name, boxes, len(self.images), empty, self.counts, path)


def check_classes(classes: Sequence[str]) -> None:
    """Refuses an empty list of classes, a name given twice, and a single string taken for a list."""
    if isinstance(classes, str):
        raise TypeError(f"classes must be a list of names, but is the string '{classes}'")
    if not classes:
        raise ValueError('classes must hold at least one name, but is empty')
    twice = sorted(name for name, count in Counter(classes).items() if count > 1)
    if twice:
        raise ValueError(f'classes must be distinct, but {twice} occur more than once')


def parse_number(text: str, where: str, what: str) -> float:
    """A finite number, whole ones as int so that the json stays as short as the source."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {what} must be a number, but is '{text.strip()}'")
    return int(value) if value.is_integer() else value


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, stripped, with their numbers from 1."""
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def write_json(path: str | Path, document: dict) -> None:
    """Writes a json file whole or not at all; keeps the old one when anything fails."""
    write_text(path, json.dumps(document, allow_nan=False) + '\n')


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        unfinished.write_text(text, encoding='utf-8')
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)

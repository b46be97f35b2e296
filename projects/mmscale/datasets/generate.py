"""Generates a small-object detection set in COCO format from a seed, so that a first training needs no download.

The same parameters and the same version give the same bytes with the same NumPy and OpenCV (which draw and encode).
Image i depends on the seed, its split and i alone, so a larger set begins with the images of a smaller one.

``segmentation`` holds the outline as one polygon and ``area`` is the area inside it, as in COCO; boxes are the tightest
around the outline, with fractions of a pixel. Every fiftieth image holds no object. ``generator.json`` records the
parameters; it is what tells a generated folder from any other.
"""
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from .convert.coco import write_json
from .draw import CLASSES, MAX_EXTENT, Shape, draw_scene

__all__ = ['CLASSES', 'SmallObjects', 'generate']

VERSION = 1  # to be raised whenever the same parameters give other images
_RECORD = 'generator.json'
_EMPTY_EVERY, _EMPTY_AT = 50, 25
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]


@dataclass(frozen=True)
class SmallObjects:
    """The parameters of a set.

    Args:
        images_train (int): Training images. Defaults to 300.
        images_val (int): Validation images. Defaults to 60.
        size (int): Side of an image in pixels, 96 to 4096. Defaults to 320.
        objects (tuple[int, int]): Fewest and most objects in an image. Defaults to (3, 12).
        seed (int): Seed. Defaults to 0.
    """
    images_train: int = 300
    images_val: int = 60
    size: int = 320
    objects: tuple[int, int] = (3, 12)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('images_train', 'images_val', 'size', 'seed'):
            _check_integer(name, getattr(self, name))
        if min(self.images_train, self.images_val) < 1:
            raise ValueError(f'images_train and images_val must be at least 1, but are {self.images_train} and '
                             f'{self.images_val}')
        if not 96 <= self.size <= 4096:
            raise ValueError(f'size must lie between 96 and 4096 pixels, but is {self.size}')
        if self.seed < 0:
            raise ValueError(f'seed must not be negative, but is {self.seed}')
        if not isinstance(self.objects, Sequence) or isinstance(self.objects, str) or len(self.objects) != 2:
            raise ValueError(f'objects must be two numbers, fewest and most per image, but is {self.objects!r}')
        for number in self.objects:
            _check_integer('objects', number)
        object.__setattr__(self, 'objects', tuple(self.objects))
        fewest, most = self.objects
        room = int(self.size**2 / (2 * MAX_EXTENT**2))
        if not 1 <= fewest <= most <= room:
            raise ValueError(f'objects must be fewest <= most, from 1 to {room} (which a {self.size} pixel image has '
                             f'room for), but is {self.objects}')

    def record(self) -> dict:
        """What ``generator.json`` holds."""
        return json.loads(json.dumps(dict(version=VERSION, **asdict(self))))


def generate(root: str | Path = 'data/small_objects', *, images_train: int = 300, images_val: int = 60, size: int = 320,
             objects: tuple[int, int] = (3, 12), seed: int = 0, overwrite: bool = False) -> bool:
    """Makes ``<root>/annotations/{train,val}.json`` and ``<root>/{train,val}/*.jpg``.

    A complete set with the same parameters is left as it is. The folder appears in one step: an interrupted run leaves
    nothing.

    Args:
        root (str | Path): The folder to make. Defaults to 'data/small_objects'.
        images_train (int): Training images. Defaults to 300.
        images_val (int): Validation images. Defaults to 60.
        size (int): Side of an image in pixels. Defaults to 320.
        objects (tuple[int, int]): Fewest and most objects in an image. Defaults to (3, 12).
        seed (int): Seed. Defaults to 0.
        overwrite (bool): Replace a generated set that has other parameters or is damaged. Defaults to False.

    Returns:
        bool: True when the set was made, False when it was there already.

    Raises:
        ValueError: A parameter is out of range.
        FileExistsError: ``root`` holds something else; only a generated set is ever replaced.
    """
    spec = SmallObjects(images_train, images_val, size, objects, seed)
    root = Path(root).resolve()  # a link stays, what it points to is replaced
    if _is_there(root, spec, overwrite):
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(f'.{root.name}.{os.getpid()}.tmp')
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _make_split(unfinished, 'train', 0, spec.images_train, spec)
        _make_split(unfinished, 'val', 1, spec.images_val, spec)
        write_json(unfinished / _RECORD, spec.record())
        _put_in_place(unfinished, root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _is_there(root: Path, spec: SmallObjects, overwrite: bool) -> bool:
    """Whether the wanted set exists; raises when something else is in its place that must not be replaced."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / _RECORD).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        raise FileExistsError(f"'{root}' exists and was not made by this generator (it has no readable {_RECORD}): "
                              'choose another root or move it away') from None
    if found == spec.record() and _is_complete(root):
        return True
    if overwrite:
        return False
    if found == spec.record():
        raise FileExistsError(f"'{root}' is damaged (files are missing): give --overwrite to make it anew")
    differing = [f'{key} {found.get(key)} (wanted: {value})' for key, value in spec.record().items()
                 if found.get(key) != value] or ['unknown parameters']
    raise FileExistsError(f"'{root}' holds a set with other parameters, {', '.join(differing)}: give --overwrite to "
                          'replace it, or another root')


def _is_complete(root: Path) -> bool:
    try:
        for split in ('train', 'val'):
            document = json.loads((root / 'annotations' / f'{split}.json').read_text(encoding='utf-8'))
            if not all((root / split / image['file_name']).is_file() for image in document['images']):
                return False
    except (OSError, ValueError):
        return False
    return True


def _put_in_place(unfinished: Path, root: Path) -> None:
    """Renames the finished folder; the old one goes only when the new one stands."""
    old = root.with_name(f'.{root.name}.{os.getpid()}.old')
    if root.exists():
        os.rename(root, old)
    try:
        os.rename(unfinished, root)
    except OSError:
        if old.exists():
            os.rename(old, root)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _make_split(folder: Path, split: str, stream: int, count: int, spec: SmallObjects) -> None:
    (folder / split).mkdir(parents=True)
    images, annotations = [], []

    def make(index: int) -> list[Shape]:
        return _make_image(folder / split / f'{index:06d}.jpg', [spec.seed, stream, index], spec)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # images are independent: any order gives the same
        results = tqdm(pool.map(make, range(count)), desc=f'generate {split}', total=count, unit='image', disable=None)
        for index, shapes in enumerate(results):
            images.append(dict(id=index + 1, file_name=f'{index:06d}.jpg', width=spec.size, height=spec.size))
            for shape in shapes:
                annotations.append(dict(id=len(annotations) + 1, image_id=index + 1, **_annotate(shape)))
    write_json(folder / 'annotations' / f'{split}.json', dict(
        info=dict(description=f'MMScale small objects, version {VERSION}, seed {spec.seed}, {split}'),
        images=images, annotations=annotations,
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]))


def _make_image(path: Path, seeds: list[int], spec: SmallObjects) -> list[Shape]:
    rng = np.random.default_rng(seeds)
    wanted = int(rng.integers(spec.objects[0], spec.objects[1] + 1))
    if seeds[-1] % _EMPTY_EVERY == _EMPTY_AT:
        wanted = 0
    picture, shapes = draw_scene(rng, spec.size, wanted)
    _, encoded = cv2.imencode('.jpg', picture, _JPEG)
    path.write_bytes(encoded.tobytes())
    return shapes


def _annotate(shape: Shape) -> dict:
    polygon = Shape(shape.label, np.round(shape.polygon, 2))  # the box of the rounded outline, so that both agree
    x1, y1, x2, y2 = polygon.box
    return dict(category_id=shape.label + 1, bbox=[round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                area=round(polygon.area, 2), segmentation=[polygon.polygon.ravel().tolist()], iscrowd=0)


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f'{name} must be an integer, but is {value!r}')

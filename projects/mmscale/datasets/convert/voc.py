"""PASCAL VOC XML annotations to COCO json, with any list of classes.

**Our choice**: boxes are those that MMDetection's ``XMLDataset`` reads (``x = xmin - 1``, ``w = xmax - xmin``, whole
pixels), so a model sees the same ground truth through either format. VOC's corner pixels belong to the box, which makes
its true width one more; ``inclusive=True`` gives that.

Objects marked difficult get ``difficult: 1`` and ``iscrowd: 1``. pycocotools overwrites an ``ignore`` field by
``iscrowd``, so ``iscrowd`` is the only mark by which COCO evaluation neither rewards nor punishes finding an object,
and MMDetection's ``CocoDataset`` reads it as ``ignore_flag``, just as ``XMLDataset`` does with difficult.
"""
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from xml.parsers import expat

from tqdm import tqdm

from .coco import CocoBuilder, Summary, check_classes, parse_number, read_lines

__all__ = ['BCCD_CLASSES', 'VOC_CLASSES', 'convert_voc']

VOC_CLASSES = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable',
               'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
BCCD_CLASSES = ('RBC', 'WBC', 'Platelets')
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.JPG', '.JPEG', '.PNG')


def convert_voc(root: str | Path, split: str, classes: Sequence[str] = VOC_CLASSES, out: str | Path | None = None,
                inclusive: bool = False, skip_unknown: bool = False, decode: bool = False) -> Summary:
    """Converts one split of a data set in PASCAL VOC layout.

    Args:
        root (str | Path): Folder with ``Annotations``, ``JPEGImages`` and ``ImageSets/Main/<split>.txt``, for instance
            'data/VOCdevkit/VOC2007'.
        split (str): The list's name, for instance 'trainval'.
        classes (Sequence[str]): The class names, in the order of their ids. Defaults to the 20 of PASCAL VOC.
        out (str | Path, optional): The json file. Defaults to ``<root>/coco/<split>.json``: not ``annotations``, which
            is the XML folder where file names ignore case.
        inclusive (bool): Count the right and bottom corner pixels as part of the box. Defaults to False.
        skip_unknown (bool): Leave out (and count) objects of other classes instead of raising. Defaults to False.
        decode (bool): Decode every image to prove that it is whole. Defaults to False.

    Returns:
        Summary: What was kept and dropped.

    Raises:
        FileNotFoundError: The list, an image or an annotation file is missing.
        ValueError: An annotation or an image is broken or a class unknown; the message names file and line.
    """
    root = Path(root)
    check_classes(classes)
    listing = root / 'ImageSets' / 'Main' / f'{split}.txt'
    if not listing.is_file():
        have = sorted(path.stem for path in listing.parent.glob('*.txt'))
        raise FileNotFoundError(f"list '{listing}' does not exist; splits found there: {have or 'none'}")

    builder = CocoBuilder(f'{root.name} {split}', classes, decode)
    for number, name in tqdm(read_lines(listing), desc=builder.name, unit='image', disable=None):
        annotation = root / 'Annotations' / f'{name}.xml'
        if not annotation.is_file():
            raise FileNotFoundError(f"{listing}, line {number}: '{name}' has no annotation file '{annotation}'")
        image = builder.add_image(_find_image(root / 'JPEGImages', name))
        _add_objects(builder, image, annotation, inclusive, skip_unknown)
    return builder.finish(root / 'coco' / f'{split}.json' if out is None else out)


def _find_image(folder: Path, name: str) -> Path:
    for suffix in _SUFFIXES:
        if (folder / f'{name}{suffix}').is_file():
            return folder / f'{name}{suffix}'
    return folder / f'{name}{_SUFFIXES[0]}'  # reading it will say that it is missing


def _add_objects(builder: CocoBuilder, image: dict, path: Path, inclusive: bool, skip_unknown: bool) -> None:
    tree = _parse(path)
    _compare_size(builder, image, tree, path)
    for item in tree.findall('object'):
        name = _child(item, 'name', path)
        where = f'{path}, line {name.line}'
        label = (name.text or '').strip()
        if label not in builder.classes:
            if skip_unknown:
                builder.count('objects of other classes, skipped', where)
                continue
            raise ValueError(f"{where}: class '{label}' is not among the classes {list(builder.classes)}")
        corners = _child(item, 'bndbox', path)
        x1, y1, x2, y2 = (int(_number(_child(corners, key, path), path)) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
        difficult = item.find('difficult')
        difficult = int(difficult is not None and _number(difficult, path) != 0)
        box = (x1 - 1, y1 - 1, x2 - x1 + inclusive, y2 - y1 + inclusive)
        if builder.add_box(image, box, label, f'{path}, line {corners.line}', iscrowd=difficult, difficult=difficult) \
                and difficult:
            builder.count('difficult boxes, marked iscrowd')


def _compare_size(builder: CocoBuilder, image: dict, tree: ET.Element, path: Path) -> None:
    """The image file rules; an annotation that states another size is counted, for its boxes may be off too."""
    size = tree.find('size')
    if size is None:
        return
    stated = tuple(_number(_child(size, key, path), path) for key in ('width', 'height'))
    if stated != (image['width'], image['height']):
        builder.count('annotations that state another size than the image has', f'{path}, line {size.line}')


def _child(parent: ET.Element, key: str, path: Path) -> ET.Element:
    child = parent.find(key)
    if child is None:
        raise ValueError(f'{path}, line {parent.line}: <{parent.tag}> has no <{key}>')
    return child


def _number(element: ET.Element, path: Path) -> float:
    return parse_number(element.text or '', f'{path}, line {element.line}', f'<{element.tag}>')


class _LocatedElement(ET.Element):
    """An element that knows the line it begins in, so that errors can name it."""
    line = 0


def _parse(path: Path) -> ET.Element:
    parser = expat.ParserCreate()

    def locate(tag: str, attributes: dict) -> _LocatedElement:
        element = _LocatedElement(tag, attributes)
        element.line = parser.CurrentLineNumber
        return element

    builder = ET.TreeBuilder(element_factory=locate)
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise ValueError(f'{path}, line {error.lineno}: not well-formed XML ({reason})') from error

"""PASCAL VOC data sets, and any data set in VOC's XML format, that name the file and the line of a fault."""
import os.path as osp
from collections import Counter
from xml.etree.ElementTree import Element

import mmcv
from mmdet.datasets import VOCDataset as MMDetVOCDataset

from ..registry import DATASETS
from .checks import BoxReport, check_class_type, check_classes_overlap, check_not_empty, quote_names
from .mixing import MixedImages
from .reading import read_file, read_lines, read_xml

__all__ = ['VOCDataset']

BOX_SIDES = ('xmin', 'ymin', 'xmax', 'ymax')


@DATASETS.register_module()
class VOCDataset(MixedImages, MMDetVOCDataset):
    """A VOC-format data set with checks; for classes other than VOC's give ``metainfo=dict(classes=...)``.

    It differs from ``mmdet.VOCDataset`` in this:

    - An object of a class that is not in ``classes`` is an error naming file, line, class and the known classes, unless
      ``ignore_unknown_classes`` is set. MMDetection leaves it out without a word.
    - Boxes thinner than a pixel (``xmin == xmax``) or outside the image are dropped and boxes partly outside clipped,
      with one counted warning per data set (:class:`~mmscale.datasets.checks.BoxReport`).
    - An annotation file that is empty, or has no object, is an image without objects.
    - An image size that is missing or zero is read from the image.

    As in MMDetection, coordinates are truncated to whole pixels and 1 is subtracted, so that they count from 0 and the
    right and bottom pixel belong to the box.

    Args:
        ignore_unknown_classes (bool): Whether objects of classes that are not in ``metainfo['classes']`` are left out
            without an error, for training on some of the classes on purpose. Defaults to False.
        img_suffix (str): The image files' suffix. Defaults to '.jpg'.
        **kwargs: Arguments of ``mmdet.VOCDataset``. ``data_prefix`` defaults to ``dict(sub_data_root='')``, which is
            ``data_root`` itself.

    Raises:
        FileNotFoundError: The list of images or an annotation file does not exist.
        ValueError: An annotation is broken, the classes do not fit, or no image is left.
    """

    def __init__(self, *, ignore_unknown_classes: bool = False, img_suffix: str = '.jpg', **kwargs) -> None:
        self.ignore_unknown_classes = ignore_unknown_classes
        self.img_suffix = img_suffix
        self.box_report = BoxReport()
        kwargs.setdefault('data_prefix', dict(sub_data_root=''))
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Reads the list of images and every image's annotation.

        Returns:
            list[dict]: One data info per image, in the list's order.
        """
        classes = check_class_type(self._metainfo.get('classes'), type(self).__name__)
        self.cat2label = {name: label for label, name in enumerate(classes)}
        self._known, self._unknown, self._first_unknown = Counter(), Counter(), ''
        data_list = []
        for number, img_id in read_lines(self.ann_file, 'list of images', self.backend_args):
            xml_path = osp.join(self.sub_data_root, self.ann_subdir, f'{img_id}.xml')
            try:
                root, lines = read_xml(xml_path, 'annotation file', self.backend_args)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}; line {number} of '{self.ann_file}' lists it") from error
            data_list.append(self._read_image(img_id, xml_path, root, lines))
        self._check_unknown(classes)
        self.box_report.warn(self.ann_file)
        return data_list

    def _check_unknown(self, classes: tuple[str, ...]) -> None:
        """Raises a ValueError if the annotations' classes do not fit the data set's."""
        if not self._known:
            check_classes_overlap(classes, self._unknown, self.ann_file)
        if self._unknown and not self.ignore_unknown_classes:
            total = sum(self._unknown.values())
            more = f' ({total} such objects: {quote_names(self._unknown)})' if total > 1 else ''
            raise ValueError(f"{self._first_unknown} is not among the data set's classes {quote_names(classes)}{more}; "
                             'add it, or set ignore_unknown_classes=True to leave such objects out')

    def _read_image(self, img_id: str, xml_path: str, root: Element | None, lines: dict) -> dict:
        """One image's data info."""
        img_path = osp.join(self.sub_data_root, self.img_subdir, f'{img_id}{self.img_suffix}')
        width, height = self._read_size(root, lines, xml_path, img_path)
        objects = [] if root is None else root.findall('object')
        instances = [self._read_object(element, lines, xml_path, width, height) for element in objects]
        return dict(img_id=img_id, img_path=img_path, xml_path=xml_path, width=width, height=height,
                    instances=[instance for instance in instances if instance is not None])

    def _read_size(self, root: Element | None, lines: dict, xml_path: str, img_path: str) -> tuple[int, int]:
        """The image's size from its annotation, or from the image where the annotation does not tell."""
        size = None if root is None else root.find('size')
        if size is not None:
            width, height = (int(_number(size, key, lines, xml_path)) for key in ('width', 'height'))
            if width > 0 and height > 0:
                return width, height
        image = mmcv.imfrombytes(read_file(img_path, 'image', self.backend_args))
        if image is None:
            raise ValueError(f"annotation file '{xml_path}' has no image size and image '{img_path}' cannot be decoded")
        return image.shape[1], image.shape[0]

    def _read_object(self, element: Element, lines: dict, xml_path: str, width: int, height: int) -> dict | None:
        """One object as an instance; None where it is left out."""
        where = f"annotation file '{xml_path}', line {lines[element]}"
        name = (element.findtext('name') or '').strip()
        if name not in self.cat2label:
            self._first_unknown = self._first_unknown or f'{where}: class {name!r}'
            self._unknown[name] += 1
            return None
        self._known[name] += 1
        bounds = element.find('bndbox')
        if bounds is None:
            raise ValueError(f'{where}: the object {name!r} has no bndbox')
        corners = [int(_number(bounds, side, lines, xml_path)) - 1 for side in BOX_SIDES]
        box = self.box_report.fit(corners, width, height, osp.basename(xml_path))
        if box is None:
            return None
        difficult = element.find('difficult') is not None and _number(element, 'difficult', lines, xml_path) != 0
        small = not self.test_mode and min(box[2] - box[0], box[3] - box[1]) < (self.bbox_min_size or 0)
        return dict(bbox=box, bbox_label=self.cat2label[name], ignore_flag=int(difficult or small))

    def filter_data(self) -> list[dict]:
        """Leaves out the images that ``filter_cfg`` excludes; in test mode none.

        Raises:
            ValueError: No image is left.
        """
        kept = super().filter_data()
        check_not_empty(kept, len(self.data_list), self.ann_file, self.filter_cfg)
        return kept


def _number(parent: Element, tag: str, lines: dict, xml_path: str) -> float:
    """The number in a child element."""
    child = parent.find(tag)
    if child is None:
        raise ValueError(f"annotation file '{xml_path}', line {lines[parent]}: <{parent.tag}> has no <{tag}>")
    try:
        return float(int(float(child.text)))  # int() refuses NaN and infinity
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"annotation file '{xml_path}', line {lines[child]}: <{tag}> should hold a number, but holds "
                         f'{child.text!r}') from error

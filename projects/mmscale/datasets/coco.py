"""COCO-format data sets that say what is wrong with their file.

``mmscale.CocoDataset`` is MMDetection's with its own reading of the file: labels follow ``metainfo['classes']`` by
name, faults of the file are errors that name the entry, and boxes are fitted into their image with one counted warning.
"""
from collections import Counter

from mmdet.datasets import CityscapesDataset as MMDetCityscapesDataset
from mmdet.datasets import CocoDataset as MMDetCocoDataset

from ..registry import DATASETS
from .checks import BoxReport, check_class_type, check_not_empty, quote_names
from .coco_file import CocoFile
from .mixing import MixedImages

__all__ = ['CityscapesDataset', 'CocoDataset']


@DATASETS.register_module()
class CocoDataset(MixedImages, MMDetCocoDataset):
    """A COCO-format data set with checks.

    It differs from ``mmdet.CocoDataset`` in this:

    - Label ``i`` is ``metainfo['classes'][i]``. MMDetection numbers labels in the order of the file's categories.
    - Boxes thinner than a pixel or outside the image are dropped and boxes partly outside clipped, with one counted
      warning per data set (:class:`~mmscale.datasets.checks.BoxReport`).
    - Objects of a class that is not in ``classes`` are an error, unless ``ignore_unknown_classes`` is set.
    - ``filter_empty_gt`` looks at the objects that are left.
    - ``ignored_regions`` of an image's entry (lists of [x, y, width, height]; VisDrone) are kept in the data info.

    Args:
        ignore_unknown_classes (bool): Whether objects of classes that are not in ``metainfo['classes']`` are left out
            without an error, for training on some of a file's classes on purpose. Defaults to False.
        **kwargs: Arguments of ``mmdet.CocoDataset``.

    Raises:
        FileNotFoundError: The annotation file does not exist.
        ValueError: The file is broken, its classes do not fit, or no image is left.
    """

    def __init__(self, *args, ignore_unknown_classes: bool = False, **kwargs) -> None:
        self.ignore_unknown_classes = ignore_unknown_classes
        self.box_report = BoxReport()
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Reads the annotation file.

        Returns:
            list[dict]: One data info per image, in the file's order.
        """
        classes = check_class_type(self.metainfo.get('classes'), type(self).__name__)
        file = CocoFile.read(self.ann_file, self.backend_args)
        category_ids = file.category_ids(classes)
        self.cat2label = {key: label for label, key in enumerate(category_ids) if key is not None}
        self.cat_ids = list(self.cat2label)
        self._check_unknown(file, classes)
        data_list = [self._read_image(key, entry, file.annotations.get(key, []))
                     for key, entry in file.images.items()]
        self.box_report.warn(self.ann_file)
        return data_list

    def _check_unknown(self, file: CocoFile, classes: tuple[str, ...]) -> None:
        """Raises a ValueError if objects belong to classes that the data set does not have."""
        unknown = [key for key in file.used_categories if key not in self.cat2label]
        if not unknown or self.ignore_unknown_classes:
            return
        counts = Counter(entry['category_id'] for group in file.annotations.values() for entry in group)
        names = quote_names(file.categories[key] for key in unknown)
        raise ValueError(f"annotation file '{file.path}' has {sum(counts[key] for key in unknown)} objects of the "
                         f"classes {names}, which are not among the data set's classes {quote_names(classes)}; "
                         'add them, or set ignore_unknown_classes=True to leave them out')

    def _read_image(self, image_id, entry: dict, annotations: list[dict]) -> dict:
        """One image's data info, its boxes fitted."""
        fitted = []
        for annotation in annotations:
            if annotation['category_id'] not in self.cat2label or annotation.get('ignore'):
                continue
            x, y, w, h = annotation['bbox']
            box = self.box_report.fit((x, y, x + w, y + h), entry['width'], entry['height'], str(entry['file_name']))
            if box is not None:
                x1, y1, x2, y2 = box
                w, h = max(x2 - x1, 1), max(y2 - y1, 1)  # a side of one pixel, which MMDetection drops at 0.99...
                area = annotation['area'] if annotation['area'] > 0 else w * h
                fitted.append({**annotation, 'bbox': [x1, y1, w, h], 'area': area})
        data_info = self.parse_data_info({'raw_img_info': {**entry, 'img_id': image_id}, 'raw_ann_info': fitted})
        if 'ignored_regions' in entry:
            data_info['ignored_regions'] = entry['ignored_regions']
        return data_info

    def _is_empty(self, data_info: dict) -> bool:
        """Whether ``filter_empty_gt`` drops the image."""
        return not data_info['instances']

    def filter_data(self) -> list[dict]:
        """Leaves out the images that ``filter_cfg`` excludes; in test mode none.

        Raises:
            ValueError: No image is left.
        """
        kept = self.data_list
        if not self.test_mode and self.filter_cfg is not None:
            min_size = self.filter_cfg.get('min_size', 0)
            filter_empty = self.filter_cfg.get('filter_empty_gt', False)
            kept = [info for info in kept if min(info['width'], info['height']) >= min_size
                    and not (filter_empty and self._is_empty(info))]
        check_not_empty(kept, len(self.data_list), self.ann_file, self.filter_cfg)
        return kept


@DATASETS.register_module()
class CityscapesDataset(CocoDataset):
    """Cityscapes' instances as COCO files, in MMDetection's layout.

    As in MMDetection, an image whose objects are all crowds counts as empty.

    Args:
        **kwargs: Arguments of :class:`CocoDataset`.
    """
    METAINFO = MMDetCityscapesDataset.METAINFO

    def _is_empty(self, data_info: dict) -> bool:
        return all(instance['ignore_flag'] for instance in data_info['instances'])

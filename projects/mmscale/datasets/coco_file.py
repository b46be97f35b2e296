"""A COCO annotation file, read once and checked: the data set and the metric both stand on it."""
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .checks import check_classes_overlap, quote_names
from .reading import read_json

__all__ = ['CocoFile']


@dataclass
class CocoFile:
    """The parts of a COCO annotation file, after the checks.

    Args:
        path (str): The file, for messages.
        images (dict): Image id to the image's entry, in the file's order.
        categories (dict): Category id to the category's name, in the file's order.
        annotations (dict): Image id to the list of the image's annotations. Each has a ``bbox`` of four numbers, an
            ``area`` (its box's, where the file has none) and ``iscrowd`` (0, where the file has none).
    """
    path: str
    images: dict
    categories: dict
    annotations: dict

    @classmethod
    def read(cls, path: str, backend_args: dict | None = None) -> 'CocoFile':
        """Reads and checks a file.

        Args:
            path (str): The JSON file.
            backend_args (dict, optional): Arguments of MMEngine's file backend. Defaults to None.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file is broken or contradicts itself; the message names the entry.
        """
        content = read_json(path, 'annotation file', backend_args)
        if not isinstance(content, dict) or 'images' not in content or 'categories' not in content:
            keys = sorted(content) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"annotation file '{path}' should be a COCO file with the keys 'images', 'categories' and "
                             f"'annotations', but has {keys}")
        images = _index(content['images'], 'image', ('id', 'file_name', 'width', 'height'), path)
        categories = {key: str(value['name'])
                      for key, value in _index(content['categories'], 'category', ('id', 'name'), path).items()}
        annotations = _group(content.get('annotations') or [], images, categories, path)
        return cls(path, images, categories, annotations)

    @property
    def used_categories(self) -> list:
        """list: The ids of the categories that have annotations, in the file's order."""
        used = {annotation['category_id'] for group in self.annotations.values() for annotation in group}
        return [key for key in self.categories if key in used]

    def category_ids(self, classes: Sequence[str]) -> list:
        """The category id of every class, matched by name.

        MMDetection numbers labels in the order of the *file*, whatever order ``classes`` has, and then shows wrong
        names. Here label i is ``classes[i]``.

        Args:
            classes (Sequence[str]): The data set's class names.

        Returns:
            list: One id per class, None for a class that the file does not have.

        Raises:
            ValueError: No class occurs in the file, or two categories of one name have annotations.
        """
        check_classes_overlap(classes, self.categories.values(), self.path)
        named = defaultdict(list)
        for key, name in self.categories.items():
            named[name].append(key)
        return [self._only(name, named[name]) for name in classes]

    def _only(self, name: str, keys: list):
        """Of the ids that share a name, the one with annotations."""
        if len(keys) > 1:
            used = [key for key in self.used_categories if key in keys]
            if len(used) > 1:
                raise ValueError(f"annotation file '{self.path}' has annotations in {len(used)} categories that are "
                                 f'all named {name!r} (ids {used}); give them different names or merge them')
            keys = used or keys[:1]
        return keys[0] if keys else None


def _index(entries: list, kind: str, keys: tuple[str, ...], path: str) -> dict:
    """Entries by id; complains about missing keys and ids used twice."""
    if not isinstance(entries, list):
        raise ValueError(f"annotation file '{path}': the {kind} list should be a list, but is a "
                         f'{type(entries).__name__}')
    indexed = {}
    for position, entry in enumerate(entries):
        missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(f"annotation file '{path}': {kind} number {position + 1} lacks {quote_names(missing)}; "
                             f'it is {str(entry)[:120]}')
        if entry['id'] in indexed:
            raise ValueError(f"annotation file '{path}': {kind} id {entry['id']!r} is used twice")
        indexed[entry['id']] = entry
    return indexed


def _group(entries: list, images: dict, categories: dict, path: str) -> dict:
    """Annotations by image id, each checked."""
    if not isinstance(entries, list):
        raise ValueError(f"annotation file '{path}': 'annotations' should be a list, but is a {type(entries).__name__}")
    grouped, seen = defaultdict(list), set()
    for position, entry in enumerate(entries, 1):
        fault = _fault(entry, images, categories, seen)
        if fault:
            name = entry.get('id', f'number {position}') if isinstance(entry, dict) else f'number {position}'
            raise ValueError(f"annotation file '{path}': annotation {name} {fault}")
        if 'id' in entry:
            seen.add(entry['id'])
        if 'area' not in entry:
            entry['area'] = entry['bbox'][2] * entry['bbox'][3]
        entry.setdefault('iscrowd', 0)
        grouped[entry['image_id']].append(entry)
    return dict(grouped)


def _fault(entry: dict, images: dict, categories: dict, seen: set) -> str | None:
    """What is wrong with an annotation, None if nothing is."""
    if not isinstance(entry, dict) or not {'image_id', 'category_id', 'bbox'} <= entry.keys():
        keys = ('image_id', 'category_id', 'bbox')
        missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        return f'lacks {quote_names(missing)}; it is {str(entry)[:120]}'
    box = entry['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, (int, float)) for value in box):
        return f'has the bbox {box!r}; four numbers [x, y, width, height] are right'
    if entry['image_id'] not in images:
        return f"belongs to image id {entry['image_id']!r}, which the file's {len(images)} images do not have"
    if entry['category_id'] not in categories:
        return (f"has category_id {entry['category_id']!r}, which is none of the file's categories "
                f'{dict(list(categories.items())[:20])}')
    if 'id' in entry and entry['id'] in seen:
        return 'has an id that is used twice'
    return None

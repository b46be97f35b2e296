"""What every data set of MMScale checks, whatever its format: boxes, class names, and that something is left.

MMDetection drops, keeps or trips over such faults depending on the format. Here every format treats them alike: faults
of single boxes are mended and reported once per data set, faults that make a run pointless are errors before it starts.
"""
import logging
from collections.abc import Iterable, Sequence

from mmengine.logging import print_log

__all__ = ['BoxReport', 'check_class_type', 'check_classes_overlap', 'check_not_empty', 'quote_names']

# Our choice: a border missed by up to one pixel is rounding, clipped without a word. COCO itself has many.
ROUNDING = 1.0
# What x + w - x may miss of w in floating point, with room.
EPSILON = 1e-6
MAX_NAMED_FILES = 3
MAX_QUOTED_NAMES = 20


class BoxReport:
    """Fits boxes into their image and counts what it had to do, for one warning per data set.

    - *degenerate*: less than one pixel wide or high, which includes zero and negative areas: dropped. MMDetection's
      ``CocoDataset`` has the same threshold, its XML data sets have none and then train to NaN.
    - *outside*: less than one pixel of it lies inside the image: dropped.
    - *clipped*: partly outside: cut at the border; counted when more than one pixel was cut off.

    Example:
        >>> report = BoxReport()
        >>> report.fit([10, 10, 10, 20], 100, 100, 'a.xml') is None
        True
        >>> report.fit([90, 90, 120, 95], 100, 100, 'b.xml')
        [90, 90, 100, 95]
        >>> report.degenerate, report.clipped, report.total
        (1, 1, 2)
    """

    def __init__(self) -> None:
        self.total = 0
        self.degenerate = 0
        self.outside = 0
        self.clipped = 0
        self.files: list[str] = []

    def fit(self, box: Sequence[float], width: float, height: float, file: str) -> list[float] | None:
        """Fits one box into its image.

        Args:
            box (Sequence[float]): The box as (x1, y1, x2, y2).
            width (float): The image's width.
            height (float): The image's height.
            file (str): The file that the report names.

        Returns:
            list[float] | None: The box inside the image, None where it has to be dropped.
        """
        self.total += 1
        x1, y1, x2, y2 = box
        if not (x2 - x1 >= 1 - EPSILON and y2 - y1 >= 1 - EPSILON):  # so that NaN counts as degenerate too
            self.degenerate += 1
            return self._name(file)
        fitted = [max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)]
        if fitted[2] - fitted[0] < 1 - EPSILON or fitted[3] - fitted[1] < 1 - EPSILON:
            self.outside += 1
            return self._name(file)
        if max(-x1, -y1, x2 - width, y2 - height) > ROUNDING:
            self.clipped += 1
            self._name(file)
        return fitted

    def _name(self, file: str) -> None:
        if len(self.files) < MAX_NAMED_FILES and file not in self.files:
            self.files.append(file)

    @property
    def dropped(self) -> int:
        """int: How many boxes were dropped."""
        return self.degenerate + self.outside

    def message(self, source: str) -> str | None:
        """The report in one sentence, None where there is nothing to report."""
        if not self.dropped and not self.clipped:
            return None
        return (f"'{source}': of {self.total} boxes {self.dropped} dropped ({self.degenerate} of zero or negative "
                f'area or thinner than a pixel, {self.outside} outside the image), {self.clipped} clipped to the '
                f'image; first found in {", ".join(self.files)}')

    def warn(self, source: str) -> None:
        """Logs the report as one warning, if there is something to report."""
        message = self.message(source)
        if message is not None:
            print_log(message, logger='current', level=logging.WARNING)


def quote_names(names: Iterable[str]) -> str:
    """Lists names for a message, the first twenty of them.

    Example:
        >>> quote_names(['RBC', 'WBC'])
        "('RBC', 'WBC')"
        >>> quote_names(map(str, range(22)))[-17:]
        "'19', ... 2 more)"
    """
    names = list(names)
    listed = ', '.join(repr(name) for name in names[:MAX_QUOTED_NAMES])
    more = f', ... {len(names) - MAX_QUOTED_NAMES} more' if len(names) > MAX_QUOTED_NAMES else ''
    return f'({listed}{more})'


def check_class_type(classes, owner: str) -> tuple[str, ...]:
    """Makes sure that ``classes`` is a sequence of distinct names and not one string (a forgotten comma).

    Raises:
        TypeError: ``classes`` is missing or no sequence of strings.
        ValueError: A name occurs twice.

    Example:
        >>> check_class_type(['disk', 'square'], 'CocoDataset')
        ('disk', 'square')
    """
    if isinstance(classes, str):
        raise TypeError(f"{owner}: metainfo['classes'] is the string {classes!r}; write a tuple, ({classes!r},) with "
                        'its comma for one class')
    if not isinstance(classes, Sequence) or not classes or not all(isinstance(name, str) for name in classes):
        raise TypeError(f"{owner}: metainfo['classes'] should be a non-empty tuple of class names, but got {classes!r}")
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice:
        raise ValueError(f"{owner}: metainfo['classes'] has {quote_names(twice)} more than once")
    return tuple(classes)


def check_classes_overlap(classes: Sequence[str], found: Iterable[str], source: str) -> None:
    """Raises a ValueError with both lists if no class of the data set occurs among the names in the annotations."""
    found = list(found)
    if found and not set(classes) & set(found):
        raise ValueError(f"none of the data set's classes {quote_names(classes)} occurs in '{source}', which has "
                         f"{quote_names(found)}; set metainfo=dict(classes=...) to the names in the annotations")


def check_not_empty(kept: Sequence, listed: int, source: str, filter_cfg: dict | None) -> None:
    """Raises a ValueError if no image is left to train or test on."""
    if not listed:
        raise ValueError(f"'{source}' lists no image")
    if not kept:
        raise ValueError(f"no image of '{source}' is left of {listed}: filter_cfg={filter_cfg} drops them all "
                         '(filter_empty_gt drops images without objects, min_size images that are too small)')

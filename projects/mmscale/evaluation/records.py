"""One test run's ground truth and detections in a common form, from COCO files and from data samples alike."""
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from mmdet.datasets.api_wrappers import COCO

from ..datasets import CocoFile

__all__ = ['Entry', 'Records', 'Result', 'from_coco_file', 'from_samples', 'to_pycocotools']


@dataclass
class Records:
    """One test run.

    ``images``, ``truths`` and ``detections`` are parallel, one item per image; labels are indices into ``classes``.

    Args:
        classes (tuple[str]): The data set's classes.
        images (list[dict]): ``img_id``, ``width``, ``height`` and ``ignored_regions`` (lists of [x, y, w, h]).
        truths (list[dict]): Arrays ``bboxes`` (n, 4; x1, y1, x2, y2), ``xywh`` (the same as x, y, width, height),
            ``labels``, ``areas``, ``crowds`` (bool; COCO's iscrowd) and ``ignored`` (bool; VOC's difficult; a crowd is
        ignored too). detections (list[dict]): Arrays ``bboxes`` (n, 4), ``scores`` and ``labels``.
    """
    classes: tuple[str, ...]
    images: list[dict]
    truths: list[dict]
    detections: list[dict]


@dataclass
class Entry:
    """One line of a report.

    Args:
        name (str): The metric, such as 'AP_S'.
        value (float): Its value; NaN where there is no ground truth.
        num_truths (int): How many ground-truth boxes it is measured on.
        meaning (str): What it measures.
    """
    name: str
    value: float
    num_truths: int
    meaning: str


@dataclass
class Result:
    """What a protocol found: its lines, and AP and AP50 class by class."""
    entries: list[Entry]
    classwise: list[Entry] = field(default_factory=list)


def from_coco_file(file: CocoFile, classes: Sequence[str], detections: Sequence[dict]) -> Records:
    """Ground truth from a COCO file: areas of the segmentations and crowds are kept, and every image of the file
    counts.

    Args:
        file (CocoFile): The annotation file.
        classes (Sequence[str]): The data set's classes.
        detections (Sequence[dict]): Per image ``img_id`` and the arrays ``bboxes``, ``scores``, ``labels``.
    """
    labels = {key: label for label, key in enumerate(file.category_ids(classes)) if key is not None}
    found = {detection['img_id']: detection for detection in detections}
    images = [dict(img_id=key, width=entry['width'], height=entry['height'],
                   ignored_regions=entry.get('ignored_regions', [])) for key, entry in file.images.items()]
    truths = []
    for image in images:
        annotations = [a for a in file.annotations.get(image['img_id'], []) if a['category_id'] in labels]
        boxes = np.array([a['bbox'] for a in annotations], dtype=np.float64).reshape(-1, 4)
        crowds = np.array([bool(a['iscrowd']) for a in annotations], dtype=bool)
        truths.append(dict(
            bboxes=np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]), xywh=boxes,
            labels=np.array([labels[a['category_id']] for a in annotations], dtype=int),
            areas=np.array([a['area'] for a in annotations], dtype=np.float64),
            crowds=crowds, ignored=crowds | np.array([bool(a.get('ignore')) for a in annotations], dtype=bool)))
    return Records(tuple(classes), images, truths, [found.get(image['img_id'], _nothing()) for image in images])


def from_samples(classes: Sequence[str], samples: Sequence[dict]) -> Records:
    """Ground truth from the data samples of the run: for data sets that are not in COCO format.

    A box's area stands in for the object's. VOC's difficult objects become crowds under COCO's protocol, as
    MMDetection's ``CocoMetric`` makes them: missing them costs nothing, and neither does detecting them.

    Args:
        classes (Sequence[str]): The data set's classes.
        samples (Sequence[dict]): Per image the detections as above, ``image`` and ``truth``.
    """
    truths = []
    for sample in samples:
        boxes = sample['truth']['bboxes'].astype(np.float64)
        xywh = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
        ignored = sample['truth']['ignored']
        truths.append(dict(bboxes=boxes, xywh=xywh, labels=sample['truth']['labels'], areas=xywh[:, 2] * xywh[:, 3],
                           crowds=ignored, ignored=ignored))
    return Records(tuple(classes), [sample['image'] for sample in samples], truths, list(samples))


def _nothing() -> dict:
    return dict(bboxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, int))


def to_pycocotools(records: Records, detections: Sequence[dict] | None = None) -> tuple[COCO, COCO]:
    """The run as a pair of pycocotools' objects, truth and detections.

    Images and categories are numbered from 0, annotations from 1: pycocotools takes a match with annotation 0 for none.

    Args:
        records (Records): The run.
        detections (Sequence[dict], optional): Detections to use instead of the run's. Defaults to None.
    """
    truths, found = [], []
    for index, truth in enumerate(records.truths):
        columns = (truth[key] for key in ('xywh', 'labels', 'areas', 'crowds'))
        for box, label, area, crowd in zip(*columns, strict=True):
            truths.append(dict(image_id=index, category_id=int(label), bbox=box.tolist(), area=float(area),
                               iscrowd=int(crowd)))
    for index, detection in enumerate(records.detections if detections is None else detections):
        boxes = np.asarray(detection['bboxes'], dtype=np.float64).reshape(-1, 4)
        boxes = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
        for box, score, label in zip(boxes, detection['scores'], detection['labels'], strict=True):
            found.append(dict(image_id=index, category_id=int(label), bbox=box.tolist(), score=float(score),
                              area=float(box[2] * box[3]), iscrowd=0))
    return _index(records, truths), _index(records, found)


def _index(records: Records, annotations: list[dict]) -> COCO:
    coco = COCO()
    for number, annotation in enumerate(annotations, 1):
        annotation['id'] = number
    coco.dataset = dict(images=[dict(id=index) for index in range(len(records.images))], annotations=annotations,
                        categories=[dict(id=label, name=name) for label, name in enumerate(records.classes)])
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco

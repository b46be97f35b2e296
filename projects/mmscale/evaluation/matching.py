"""One run's detections matched with its ground truth at one IoU: true and false positives, and what caused the false.

The matching is pycocotools': per image and class, by falling score, each detection takes the object that it overlaps
most among those that no better detection took; crowds absorb any number of detections, which then count neither way. In
a size range, objects outside it are ignored like crowds, and so are unmatched detections of a size outside it.

A detection's match depends only on detections of higher score. So one matching of all detections gives the counts at
every score threshold: those at or above it, unchanged.
"""

from dataclasses import dataclass

import numpy as np
from pycocotools import mask

from .coco_protocol import count_truths, run_pycocotools
from .protocols import PROTOCOLS, Protocol
from .records import Records, to_pycocotools
from .visdrone_protocol import drop_in_ignored_regions

__all__ = ['CAUSES', 'NEAR', 'RANGES', 'Counts', 'Matches', 'check_iou', 'check_score', 'match']

CAUSES = ('duplicate', 'localisation', 'other class', 'background')
NEAR = 0.1  # the least IoU that makes a detection belong to an object, in Hoiem et al. 2012 and in TIDE
AREAS = tuple(
    (name, low, high)
    for name, (_, low, high) in zip(('small', 'medium', 'large'), PROTOCOLS['coco'].areas, strict=True)
)
RANGES = ('all', *(name for name, _, _ in AREAS))


@dataclass(frozen=True)
class Counts:
    """What a detector did right and wrong, on some classes and sizes, from some score on.

    Example:
        >>> counts = Counts(tp=8, fp=2, fn=24, causes={'background': 2})
        >>> counts.precision, counts.recall, counts.f1, counts.truths
        (0.8, 0.25, 0.38095238095238093, 32)
        >>> Counts(tp=0, fp=0, fn=5, causes={}).precision
        nan

    Args:
        tp (int): Detections of an object.
        fp (int): Detections of nothing, of another class, too inexact, or of an object that is found already.
        fn (int): Objects that no detection found.
        causes (dict[str, int]): The false positives by cause, of :data:`CAUSES`.
    """

    tp: int
    fp: int
    fn: int
    causes: dict[str, int]

    @property
    def truths(self) -> int:
        """int: The objects to find."""
        return self.tp + self.fn

    @property
    def precision(self) -> float:
        """float: The share of detections that are right; NaN where there are none."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """float: The share of objects that are found; NaN where there are none."""
        return _ratio(self.tp, self.truths)

    @property
    def f1(self) -> float:
        """float: 2 TP / (2 TP + FP + FN), the harmonic mean of both; NaN without detection and object."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


@dataclass(frozen=True)
class Matches:
    """The outcome of every detection of a run, at one IoU.

    N detections, R size ranges in the order of :data:`RANGES`, C classes.

    Args:
        classes (tuple[str]): The data set's classes.
        iou_thr (float): The IoU from which a detection finds an object.
        num_images (int): How many images the run has.
        truths (np.ndarray): Objects to find, shape (R, C).
        scores (np.ndarray): In single precision, as detectors make them, wherever they were read from; shape (N,).
        labels (np.ndarray): Shape (N,).
        right (np.ndarray): Whether a detection is a true positive of a range, bool, shape (R, N).
        wrong (np.ndarray): Whether it is a false one, bool, shape (R, N). What is neither does not count.
        causes (np.ndarray): Index into :data:`CAUSES` of what a false positive is due to, shape (N,).
    """

    classes: tuple[str, ...]
    iou_thr: float
    num_images: int
    truths: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    causes: np.ndarray

    def count(self, score_thr: float, label: int | None = None, size: str = 'all') -> Counts:
        """Counts what happens if detections below a score are dropped.

        Args:
            score_thr (float): The lowest score that counts.
            label (int, optional): The class. Defaults to None, for all.
            size (str): One of :data:`RANGES`. Defaults to 'all'.
        """
        at = RANGES.index(size)
        kept = self.scores >= np.float32(score_thr)
        if label is not None:
            kept &= self.labels == label
        truths = int(self.truths[at].sum() if label is None else self.truths[at, label])
        tp, wrong = int((self.right[at] & kept).sum()), self.wrong[at] & kept
        causes = np.bincount(self.causes[wrong], minlength=len(CAUSES))
        return Counts(tp, int(wrong.sum()), truths - tp, dict(zip(CAUSES, causes.tolist(), strict=True)))


def match(records: Records, iou_thr: float = 0.5) -> Matches:
    """Matches a run's detections, all of them, with its ground truth.

    What lies by half or more in ignored regions (VisDrone) is dropped first, as nobody annotated it.

    Args:
        records (Records): The run.
        iou_thr (float): The IoU from which a detection finds an object. Defaults to 0.5.

    Raises:
        ValueError: ``iou_thr`` is out of its range.
    """
    check_iou(iou_thr)
    records = drop_in_ignored_regions(records)
    counts = [len(detection['labels']) for detection in records.detections]
    protocol = Protocol('errors', 'coco', '', (iou_thr,), max_dets=(max([1, *counts]),), areas=AREAS)
    evaluation = run_pycocotools(records, protocol, to_pycocotools(records))
    right, wrong = np.zeros((2, len(RANGES), sum(counts)), dtype=bool)
    # pycocotools lists class by class, in a class range by range, in a range image by image
    for index, item in enumerate(evaluation.evalImgs):
        if item is None:  # neither objects nor detections
            continue
        at = index // len(records.images) % len(RANGES)
        detections = np.array(item['dtIds'], dtype=int) - 1
        found, ignored = item['dtMatches'][0] > 0, item['dtIgnore'][0].astype(bool)
        right[at, detections], wrong[at, detections] = found & ~ignored, ~found & ~ignored
    scores, labels = (
        np.concatenate([np.asarray(detection[key]) for detection in records.detections]) for key in ('scores', 'labels')
    )
    return Matches(
        records.classes,
        iou_thr,
        len(records.images),
        count_truths(records, protocol).T,
        scores.astype(np.float32),
        labels.astype(int),
        right,
        wrong,
        _causes(records, iou_thr),
    )


def check_iou(iou_thr: float) -> float:
    """Returns an IoU threshold above 0.1, which is where background ends; else raises a ValueError."""
    if not NEAR < iou_thr <= 1:
        raise ValueError(f'iou_thr={iou_thr} should be above {NEAR}, where background ends, and at most 1')
    return iou_thr


def check_score(score_thr: float) -> float:
    """Returns a score threshold if it can be one; else raises a ValueError."""
    if not 0 <= score_thr <= 1:
        raise ValueError(f'score_thr={score_thr} should lie between 0 and 1')
    return score_thr


def _causes(records: Records, iou_thr: float) -> np.ndarray:
    """Why each detection is a false positive, if it is one: the first of :data:`CAUSES` that applies."""
    parts = [np.zeros(0, dtype=int)]
    for truth, detection in zip(records.truths, records.detections, strict=True):
        boxes = np.asarray(detection['bboxes'], dtype=np.float64).reshape(-1, 4)
        causes = np.full(len(boxes), CAUSES.index('background'))
        if len(boxes) and len(truth['labels']):
            xywh = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
            ious = mask.iou(xywh, truth['xywh'], truth['crowds'].astype(np.uint8))
            same = np.asarray(detection['labels'])[:, None] == truth['labels'][None]
            own, other = np.where(same, ious, 0).max(axis=1), np.where(same, 0, ious).max(axis=1)
            causes[other >= NEAR] = CAUSES.index('other class')
            causes[own >= NEAR] = CAUSES.index('localisation')
            causes[own >= min(iou_thr, 1 - 1e-10)] = CAUSES.index('duplicate')
        parts.append(causes)
    return np.concatenate(parts)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float('nan')

"""AP and AR as pycocotools computes them, with any size bins and detection limits: COCO and AI-TOD."""
import contextlib
import io

import numpy as np
from mmdet.datasets.api_wrappers import COCOeval

from .protocols import NO_LIMIT, Protocol
from .records import Entry, Records, Result, to_pycocotools

__all__ = ['evaluate_coco', 'mean_or_nan', 'run_pycocotools']


def evaluate_coco(records: Records, protocol: Protocol) -> Result:
    """Evaluates a run with pycocotools.

    Args:
        records (Records): The run.
        protocol (Protocol): A protocol of the kind 'coco'.

    Returns:
        Result: AP, AP50, AP75, AP per size bin, AR per detection limit and per size bin.
    """
    evaluation = run_pycocotools(records, protocol, to_pycocotools(records))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    # pycocotools marks what has no ground truth with -1
    precision = _nan_where_absent(evaluation.eval['precision'])  # (IoU, recall, class, area, limit)
    recall = _nan_where_absent(evaluation.eval['recall'])  # (IoU, class, area, limit)
    counts = count_truths(records, protocol)  # (class, area)
    at = {iou: index for index, iou in enumerate(protocol.ious)}
    limits = protocol.max_dets
    where = f'IoU {protocol.ious[0]:.2f}:{protocol.ious[-1]:.2f}'
    total = int(counts[:, 0].sum())
    entries = [Entry('AP', mean_or_nan(precision[..., 0, -1]), total,
                     f'{where}, up to {limits[-1]} per image and class'),
               Entry('AP50', mean_or_nan(precision[at[0.5], ..., 0, -1]), total, 'IoU 0.50'),
               Entry('AP75', mean_or_nan(precision[at[0.75], ..., 0, -1]), total, 'IoU 0.75')]
    for index, (name, low, high) in enumerate(protocol.areas, 1):
        entries.append(Entry(f'AP_{name}', mean_or_nan(precision[..., index, -1]), int(counts[:, index].sum()),
                             _size(low, high)))
    for index, limit in enumerate(limits):
        entries.append(Entry(f'AR{limit}', mean_or_nan(recall[:, :, 0, index]), total,
                             f'{where}, up to {limit} per image and class'))
    for index, (name, low, high) in enumerate(protocol.areas, 1):
        entries.append(Entry(f'AR_{name}', mean_or_nan(recall[:, :, index, -1]), int(counts[:, index].sum()),
                             _size(low, high)))
    classwise = []
    for label, name in enumerate(records.classes):
        count = int(counts[label, 0])
        classwise.append(Entry(f'AP/{name}', mean_or_nan(precision[:, :, label, 0, -1]), count, where))
        classwise.append(Entry(f'AP50/{name}', mean_or_nan(precision[at[0.5], :, label, 0, -1]), count, 'IoU 0.50'))
    return Result(entries, classwise)


def run_pycocotools(records: Records, protocol: Protocol, pair: tuple) -> COCOeval:
    """Matches detections with ground truth: pycocotools' ``evaluate`` under the protocol's settings."""
    evaluation = COCOeval(*pair, 'bbox')
    evaluation.params.imgIds = list(range(len(records.images)))
    evaluation.params.catIds = list(range(len(records.classes)))
    evaluation.params.iouThrs = np.array(protocol.ious)
    evaluation.params.maxDets = list(protocol.max_dets)
    evaluation.params.areaRng = [[0, NO_LIMIT], *([low, high] for _, low, high in protocol.areas)]
    evaluation.params.areaRngLbl = ['all', *(name for name, _, _ in protocol.areas)]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    return evaluation


def count_truths(records: Records, protocol: Protocol) -> np.ndarray:
    """The ground truth that counts, per class and size bin (all sizes first); an area on a border is in both bins, as
    pycocotools has it.

    Returns:
        np.ndarray: Shape (classes, 1 + bins).
    """
    labels = np.concatenate([truth['labels'][~truth['crowds']] for truth in records.truths])
    areas = np.concatenate([truth['areas'][~truth['crowds']] for truth in records.truths])
    bins = [(0, NO_LIMIT), *((low, high) for _, low, high in protocol.areas)]
    inside = np.array([(areas >= low) & (areas <= high) for low, high in bins])
    return np.array([inside[:, labels == label].sum(axis=1) for label in range(len(records.classes))])


def mean_or_nan(values: np.ndarray) -> float:
    """The mean over what is there; NaN if nothing is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float('nan')


def _nan_where_absent(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, np.nan, values)


def _size(low: float, high: float) -> str:
    return f'area from {low:.0f}' if high >= NO_LIMIT else f'area {low:.0f} to {high:.0f}'

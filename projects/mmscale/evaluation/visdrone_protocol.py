"""AP and AR as the VisDrone-DET toolkit computes them.

It differs from COCO's protocol in three ways (toolkit: dropObjectsInIgr, calcAccuracy, VOCap):

- Ground truth and detections of which half or more lies in ignored regions are dropped before matching.
- A limit of N detections counts the N best of an image over all classes together, not per class.
- AP is the area under the interpolated curve, as in VOC2012, not a mean over 101 recalls.

The challenge's paper averages over classes; the toolkit's code averages over (image, class) pairs, so that a class
weighs by the number of images that show it. ``AP`` is the paper's, ``AP_toolkit`` the code's.
"""
from dataclasses import replace

import numpy as np
from mmdet.evaluation.functional.mean_ap import average_precision

from .coco_protocol import mean_or_nan, run_pycocotools
from .protocols import Protocol
from .records import Entry, Records, Result, to_pycocotools

__all__ = ['drop_in_ignored_regions', 'evaluate_visdrone', 'share_in_regions']


def evaluate_visdrone(records: Records, protocol: Protocol) -> Result:
    """Evaluates a run under the toolkit's rules.

    Args:
        records (Records): The run.
        protocol (Protocol): A protocol of the kind 'visdrone'.

    Returns:
        Result: AP, AP50, AP75 in both averages, and AR per detection limit.
    """
    records = drop_in_ignored_regions(records)
    ap, recalls = None, {}
    for limit in protocol.max_dets:
        ap, recalls[limit] = _evaluate_limit(records, replace(protocol, max_dets=(limit,)), limit)
    at = {iou: index for index, iou in enumerate(protocol.ious)}
    counts = np.array([sum(int(((truth['labels'] == label) & ~truth['crowds']).sum()) for truth in records.truths)
                       for label in range(len(records.classes))])
    weights = np.array([sum(bool(((truth['labels'] == label) & ~truth['crowds']).any()) for truth in records.truths)
                        for label in range(len(records.classes))])
    total, where = int(counts.sum()), f'IoU {protocol.ious[0]:.2f}:{protocol.ious[-1]:.2f}'
    limit = protocol.max_dets[-1]
    rows = (('AP', ap, f'{where}, up to {limit} per image'), ('AP50', ap[:, at[0.5]], 'IoU 0.50'),
            ('AP75', ap[:, at[0.75]], 'IoU 0.75'))
    entries = [Entry(name, mean_or_nan(values), total, meaning) for name, values, meaning in rows]
    entries += [Entry(f'AR{limit}', mean_or_nan(values), total, f'{where}, up to {limit} per image')
                for limit, values in recalls.items()]
    entries += [Entry(f'{name}_toolkit', _weighted(values, weights), total, f'{meaning}, classes weighted by images')
                for name, values, meaning in rows]
    classwise = []
    for label, name in enumerate(records.classes):
        classwise.append(Entry(f'AP/{name}', mean_or_nan(ap[label]), int(counts[label]), where))
        classwise.append(Entry(f'AP50/{name}', float(ap[label, at[0.5]]), int(counts[label]), 'IoU 0.50'))
    return Result(entries, classwise)


def _weighted(values: np.ndarray, weights: np.ndarray) -> float:
    """The mean over classes (first axis), weighted; NaN without ground truth."""
    if not weights.sum():
        return float('nan')
    present = weights > 0
    per_class = values[present].reshape(int(present.sum()), -1).mean(axis=1)
    return float(np.average(per_class, weights=weights[present]))


def _evaluate_limit(records: Records, protocol: Protocol, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """AP and the largest recall, both of shape (classes, IoUs), NaN for classes without ground truth."""
    best = [_best(detection, limit) for detection in records.detections]
    evaluation = run_pycocotools(records, protocol, to_pycocotools(records, best))
    num_images, num_ious = len(records.images), len(protocol.ious)
    ap = np.full((len(records.classes), num_ious), np.nan)
    recall = ap.copy()
    for label in range(len(records.classes)):
        found = [item for item in evaluation.evalImgs[label * num_images:(label + 1) * num_images] if item is not None]
        count = sum(int((np.asarray(item['gtIgnore']) == 0).sum()) for item in found)
        if not count:
            continue
        scores = np.concatenate([item['dtScores'] for item in found])
        order = np.argsort(-scores, kind='mergesort')
        matched = np.concatenate([item['dtMatches'] for item in found], axis=1)[:, order] > 0
        ignored = np.concatenate([item['dtIgnore'] for item in found], axis=1)[:, order].astype(bool)
        tp = np.cumsum(matched & ~ignored, axis=1)
        fp = np.cumsum(~matched & ~ignored, axis=1)
        for index in range(num_ious):
            recalls = tp[index] / count
            ap[label, index] = average_precision(recalls, tp[index] / np.maximum(tp[index] + fp[index], 1), 'area')
            recall[label, index] = recalls.max(initial=0)
    return ap, recall


def _best(detection: dict, limit: int) -> dict:
    """The image's best detections over all classes."""
    order = np.argsort(-detection['scores'], kind='mergesort')[:limit]
    return {key: detection[key][order] for key in ('bboxes', 'scores', 'labels')}


def drop_in_ignored_regions(records: Records) -> Records:
    """The run without the ground truth and detections of which half or more lies in their image's ignored regions."""
    truths, detections = [], []
    for image, truth, detection in zip(records.images, records.truths, records.detections, strict=True):
        if image['ignored_regions']:
            size = image['height'], image['width']
            kept = share_in_regions(truth['xywh'], image['ignored_regions'], *size) < 0.5
            truth = {key: value[kept] for key, value in truth.items()}
            boxes = np.asarray(detection['bboxes'], dtype=np.float64)
            boxes = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
            kept = share_in_regions(boxes, image['ignored_regions'], *size) < 0.5
            detection = {key: detection[key][kept] for key in ('bboxes', 'scores', 'labels')}
        truths.append(truth)
        detections.append(detection)
    return replace(records, truths=truths, detections=detections)


def share_in_regions(boxes: np.ndarray, regions: list, height: int, width: int) -> np.ndarray:
    """The share of every box that lies in the union of the regions, counted in whole pixels as the toolkit counts them.

    Args:
        boxes (np.ndarray): Shape (n, 4), (x, y, width, height).
        regions (list): Lists of [x, y, width, height].
        height (int): The image's height.
        width (int): The image's width.

    Returns:
        np.ndarray: Shape (n,).

    Example:
        >>> share_in_regions(np.array([[10., 10., 10., 10.], [50., 50., 10., 10.]]), [[0, 0, 14, 100]], 100, 100)
        array([0.5, 0. ])
    """
    covered = np.zeros((height, width), dtype=np.int64)
    for x, y, w, h in regions:
        left, top = max(1, int(x)), max(1, int(y))  # the toolkit counts pixels from 1, its annotations from 0
        covered[top - 1:int(top + h), left - 1:int(left + w)] = 1
    integral = covered.cumsum(axis=0).cumsum(axis=1)
    x, y, w, h = np.maximum(1, np.floor(np.asarray(boxes).reshape(-1, 4) + 0.5)).astype(np.int64).T
    x, y = np.minimum(x, width), np.minimum(y, height)
    right, bottom = np.minimum(x + w, width), np.minimum(y + h, height)
    inside = (integral[y - 1, x - 1] + integral[bottom - 1, right - 1] - integral[y - 1, right - 1]
              - integral[bottom - 1, x - 1])
    return inside / (w * h)

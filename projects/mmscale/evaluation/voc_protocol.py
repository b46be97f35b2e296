"""mAP as the PASCAL VOC development kits compute it, from MMDetection's matching and integration."""
import numpy as np
from mmdet.evaluation.functional.mean_ap import average_precision, tpfp_default

from .coco_protocol import mean_or_nan
from .protocols import Protocol
from .records import Entry, Records, Result

__all__ = ['evaluate_voc']


def evaluate_voc(records: Records, protocol: Protocol) -> Result:
    """Evaluates a run under VOC's rules: a detection belongs to the box it overlaps most, difficult objects do not
    count.

    Equals ``mmdet.VOCMetric`` without its process pool, which forks the training process at every evaluation. As there
    and in the development kit, the right and bottom pixel belong to a box, so that its width is ``x2 - x1 + 1``.

    Args:
        records (Records): The run.
        protocol (Protocol): A protocol of the kind 'voc'.

    Returns:
        Result: mAP over the classes that have ground truth, and AP per class.
    """
    iou = protocol.ious[0]
    how = 'at 11 recalls' if protocol.ap_mode == '11points' else 'area under the curve'
    classwise = []
    for label, name in enumerate(records.classes):
        tp, fp, count = _match(records, label, iou)
        ap = float('nan')
        if count:
            ap = float(average_precision(tp / count, tp / np.maximum(tp + fp, 1), protocol.ap_mode))
        classwise.append(Entry(f'AP/{name}', ap, count, f'IoU {iou:.2f}, {how}'))
    mean = mean_or_nan(np.array([entry.value for entry in classwise]))
    total = sum(entry.num_truths for entry in classwise)
    return Result([Entry('mAP', mean, total, f'IoU {iou:.2f}, {how}')], classwise)


def _match(records: Records, label: int, iou: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Cumulative true and false positives of one class by falling score, and the number of objects to find."""
    scores, tps, fps, count = [], [], [], 0
    for truth, detection in zip(records.truths, records.detections, strict=True):
        ours = truth['labels'] == label
        count += int((ours & ~truth['ignored']).sum())
        picked = detection['labels'] == label
        if not picked.any():
            continue
        boxes = np.hstack([detection['bboxes'][picked], detection['scores'][picked, None]])
        tp, fp = tpfp_default(
            boxes, truth['bboxes'][ours & ~truth['ignored']].astype(np.float32),
            truth['bboxes'][ours & truth['ignored']].astype(np.float32), iou,
            use_legacy_coordinate=True)
        scores.append(boxes[:, -1])
        tps.append(tp[0])
        fps.append(fp[0])
    if not scores:
        return np.zeros(0), np.zeros(0), count
    order = np.argsort(-np.concatenate(scores))
    tp, fp = np.concatenate(tps)[order], np.concatenate(fps)[order]
    # in double precision: float32 stops counting at 16.7 million
    return np.cumsum(tp, dtype=np.float64), np.cumsum(fp, dtype=np.float64), count

"""The error counts against arithmetic by hand, a literal matching in loops and pycocotools' own."""

import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmscale.datasets import CocoFile
from mmscale.evaluation import DetectionErrorMetric
from mmscale.evaluation.matching import CAUSES, RANGES, Counts, match
from mmscale.evaluation.records import from_coco_file

from ..datasets.tiny import write_coco
from .test_detection_metric import CLASSES, run, sample

BOX = [0, 0, 20, 20]


def errors(*samples, classes=CLASSES, **kwargs) -> dict:
    metrics = run(DetectionErrorMetric(**kwargs), samples, classes)
    return {name.removeprefix('errors/'): value for name, value in metrics.items()}


def causes(metrics: dict) -> dict:
    return {name[3:]: value for name, value in metrics.items() if name.startswith('FP_') and value}


def test_the_papers_own_table():
    """FINE's table 5: its ratios follow from its counts; its gains in percent are those of the rounded ratios."""
    without, with_fine = Counts(23833, 21557, 12502, {}), Counts(24186, 19417, 12149, {})
    assert [round(value, 3) for value in (without.precision, without.recall, without.f1)] == [0.525, 0.656, 0.583]
    assert [round(value, 3) for value in (with_fine.precision, with_fine.recall, with_fine.f1)] == [0.555, 0.666, 0.605]
    assert without.truths == with_fine.truths == 36335, "COCO val2017's objects that are no crowds"


def test_counted_by_hand():
    """Image 1: found at IoU 0.8, and again by a lower score. Image 2: a score too low, a box too small, a miss."""
    metrics = errors(
        sample(1, ([BOX], [0]), ([[0, 0, 20, 16], BOX], [0, 0], [0.9, 0.8])),
        sample(
            2,
            ([BOX, [50, 50, 70, 70], [100, 100, 120, 120]], [0, 1, 2]),
            ([BOX, [50, 50, 70, 55]], [0, 1], [0.49, 0.7]),
        ),
    )
    assert metrics == dict(
        TP=1,
        FP=2,
        FN=3,
        precision=1 / 3,
        recall=0.25,
        F1=2 / 7,
        FP_duplicate=1,
        FP_localisation=1,
        FP_other_class=0,
        FP_background=0,
    )


def test_thresholds_are_inclusive():
    item = sample(1, ([BOX], [0]), ([[0, 0, 20, 10]], [0], [0.5]))  # IoU and score of 0.5
    assert errors(item)['TP'] == 1
    assert errors(item, iou_thr=0.51)['FP'] == 1
    assert errors(item, score_thr=0.51)['FN'] == 1 and errors(item, score_thr=0.51)['FP'] == 0


@pytest.mark.parametrize(
    ('box', 'label', 'cause'),
    [
        ([0, 0, 20, 20], 0, 'duplicate'),
        ([0, 0, 20, 9], 0, 'localisation'),  # IoU 0.45
        ([0, 0, 20, 2], 0, 'localisation'),  # IoU 0.1
        ([0, 0, 20, 1.9], 0, 'background'),
        ([0, 0, 20, 20], 1, 'other_class'),
        ([0, 0, 20, 2], 1, 'other_class'),
        ([0, 0, 20, 1.9], 1, 'background'),
        ([40, 40, 60, 60], 2, 'background'),
    ],
)
def test_causes_of_false_positives(box, label, cause):
    """Beside a correct detection of the one object."""
    metrics = errors(sample(1, ([BOX], [0]), ([BOX, box], [0, label], [0.9, 0.8])))
    assert metrics['TP'] == 1 and metrics['FP'] == 1 and causes(metrics) == {cause: 1}


def test_the_own_class_decides_the_cause():
    """IoU 0.2 with an object of its class, 1 with one of another."""
    item = sample(1, ([[0, 0, 20, 100], [0, 0, 20, 20]], [0, 1]), ([BOX], [0], [0.9]))
    assert causes(errors(item)) == dict(localisation=1)


def test_the_better_detection_takes_the_object():
    """The higher score takes the object that it overlaps most, although the other object would suit it too."""
    item = sample(1, ([BOX, [0, 4, 20, 24]], [0, 0]), ([[0, 1, 20, 21], BOX], [0, 0], [0.9, 0.8]))
    metrics = errors(item)
    assert metrics['TP'] == 2, 'the second is left with IoU 2/3'
    assert errors(item, iou_thr=0.7)['TP'] == 1 and causes(errors(item, iou_thr=0.7)) == dict(duplicate=1)


def test_crowds_absorb(tmp_path):
    """Any number of detections inside a crowd of their class; one of another class is false, but not background."""
    path = write_coco(
        tmp_path / 'a.json', [dict(id=1)], [dict(image_id=1, category_id=1, bbox=[0, 0, 60, 40], iscrowd=1)], CLASSES
    )
    inside = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    metrics = errors(sample(1, found=(inside, [0, 0, 1], [0.9, 0.9, 0.9])), ann_file=str(path))
    assert (metrics['TP'], metrics['FP'], metrics['FN']) == (0, 1, 0) and causes(metrics) == dict(other_class=1)


def test_difficult_objects_do_not_count():
    item = sample(
        1, ([BOX], [0]), ([BOX, [50, 50, 70, 70]], [0, 0], [0.9, 0.9]), ([[50, 50, 70, 70], [90, 90, 110, 110]], [0, 0])
    )
    metrics = errors(item)
    assert (metrics['TP'], metrics['FP'], metrics['FN']) == (1, 0, 0)


def test_ignored_regions_take_their_detections():
    """A detection by half inside is dropped; pycocotools knows nothing of such regions."""
    found = ([[10, 10, 30, 30], [60, 10, 80, 30]], [0, 0], [0.9, 0.9])
    assert errors(sample(1, found=found))['FP'] == 2
    assert errors(sample(1, found=found, ignored_regions=[[0, 0, 50, 50]]))['FP'] == 1


def test_no_detection_and_no_object():
    """What has nothing to be measured on is NaN, never 0/0 and never 1."""
    missed = errors(sample(1, ([BOX], [0])))
    assert math.isnan(missed['precision']) and missed['recall'] == missed['F1'] == 0 and missed['FN'] == 1
    empty = errors(sample(1, found=([BOX], [0], [0.9])))
    assert math.isnan(empty['recall']) and empty['precision'] == empty['F1'] == 0 and empty['FP_background'] == 1
    nothing = errors(sample(1), sample(2))
    assert all(math.isnan(nothing[name]) for name in ('precision', 'recall', 'F1')) and nothing['FP'] == 0


def test_the_table_has_sizes_and_classes(monkeypatch):
    lines = []
    monkeypatch.setattr('mmengine.logging.MMLogger.info', lambda self, message, *_: lines.append(message))
    errors(sample(1, ([BOX, [50, 50, 100, 100]], [0, 1]), ([BOX], [0], [0.9])))
    cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines[0].splitlines() if '|' in line]
    shown = {row[0]: row[1:7] for row in cells}
    assert shown['all'] == ['1', '0', '1', '1.000', '0.500', '0.667']
    assert shown['small'] == ['1', '0', '0', '1.000', '1.000', '1.000']
    assert shown['medium'] == ['0', '0', '1', '-', '0.000', '0.000']
    assert shown['large'] == shown['cross'] == ['0', '0', '0', '-', '-', '-']
    assert list(shown) == ['objects', *RANGES, *CLASSES]


@pytest.mark.parametrize('kwargs', [dict(iou_thr=0.1), dict(iou_thr=1.5), dict(score_thr=-0.1), dict(score_thr=50)])
def test_thresholds_out_of_range(kwargs):
    ((name, value),) = kwargs.items()
    with pytest.raises(ValueError, match=f'{name}={value} should'):
        DetectionErrorMetric(**kwargs)


def test_two_metrics_in_one_run():
    assert 'strict/errors/TP' in run(DetectionErrorMetric(iou_thr=0.75, prefix='strict'), [sample(1, ([BOX], [0]))])


@pytest.fixture(scope='module')
def crowded(tmp_path_factory):
    """Twelve images with overlapping objects of three classes, crowds and areas below their boxes', and detections of
    all kinds, with equal scores among them."""
    rng = np.random.default_rng(7)
    annotations, samples = [], []
    for img_id in range(1, 13):
        count = 0 if img_id % 6 == 0 else int(rng.integers(3, 12))
        xy, wh = rng.uniform(0, 60, (count, 2)), np.exp(rng.uniform(2.5, 5, (count, 2)))
        labels = rng.integers(0, 3, count)
        for position, size, label in zip(xy, wh, labels, strict=True):
            annotations.append(
                dict(
                    image_id=img_id,
                    category_id=int(label) + 1,
                    bbox=[*position, *size],
                    iscrowd=int(rng.random() < 0.2),
                    area=float(size.prod() * rng.uniform(0.5, 1)),
                )
            )
        boxes = np.hstack([xy, xy + wh])
        found = np.vstack([np.repeat(boxes, 3, axis=0) + rng.normal(0, 5, (3 * count, 4)), rng.uniform(0, 200, (6, 4))])
        found = np.sort(found.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        guesses = np.concatenate([np.repeat(labels, 3), rng.integers(0, 3, 6)])
        samples.append(sample(img_id, found=(found, guesses, rng.integers(1, 20, len(found)) / 20)))
    images = [dict(id=key, width=640, height=480) for key in range(1, 13)]
    path = write_coco(tmp_path_factory.mktemp('crowded') / 'a.json', images, annotations, CLASSES)
    detections = [
        dict(img_id=item['img_id'], **{key: value.numpy() for key, value in item['pred_instances'].items()})
        for item in samples
    ]
    return str(path), from_coco_file(CocoFile.read(str(path)), CLASSES, detections)


@pytest.mark.parametrize('score_thr', [0, 0.35, 0.5, 0.95])
@pytest.mark.parametrize('iou_thr', [0.5, 0.75])
def test_equals_pycocotools(crowded, iou_thr, score_thr):
    """Its own loading and matching of the detections from that score on."""
    path, records = crowded
    lowest = np.float32(score_thr)
    results = [
        dict(
            image_id=image['img_id'],
            category_id=int(label) + 1,
            score=float(score),
            bbox=[float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
        )
        for image, found in zip(records.images, records.detections, strict=True)
        for (x1, y1, x2, y2), label, score in zip(
            found['bboxes'].astype(float), found['labels'], found['scores'], strict=True
        )
        if score >= lowest
    ]
    truth = COCO(path)
    evaluation = COCOeval(truth, truth.loadRes(results), 'bbox')
    evaluation.params.iouThrs = np.array([iou_thr])
    evaluation.evaluate()
    matches, images = match(records, iou_thr), len(records.images)
    for index in range(len(CLASSES) * len(RANGES)):
        label, at = divmod(index, len(RANGES))
        items = [item for item in evaluation.evalImgs[index * images : (index + 1) * images] if item is not None]
        matched = np.concatenate([item['dtMatches'][0] > 0 for item in items])
        ignored = np.concatenate([item['dtIgnore'][0] for item in items]).astype(bool)
        truths = sum(int((np.asarray(item['gtIgnore']) == 0).sum()) for item in items)
        counts = matches.count(score_thr, label, RANGES[at])
        assert (counts.tp, counts.fp) == ((matched & ~ignored).sum(), (~matched & ~ignored).sum())
        assert counts.truths == truths and sum(counts.causes.values()) == counts.fp
    total = matches.count(0.35)
    assert min(total.tp, total.fp, total.fn, *total.causes.values()) > 0, 'the data shows every case'


def test_equals_a_literal_matching(crowded):
    """The greedy rule in plain loops, over all sizes."""
    _, records = crowded
    tp = fp = fn = 0
    for truth, found in zip(records.truths, records.detections, strict=True):
        free = {index for index, crowd in enumerate(truth['crowds']) if not crowd}
        for index in np.argsort(-found['scores'], kind='stable'):
            if found['scores'][index] < 0.4:
                continue
            overlaps = {
                at: overlap(found['bboxes'][index].astype(float), box, crowd)
                for at, (box, label, crowd) in enumerate(
                    zip(truth['bboxes'], truth['labels'], truth['crowds'], strict=True)
                )
                if label == found['labels'][index]
            }
            good = {at: iou for at, iou in overlaps.items() if iou >= 0.5}
            best = max((at for at in good if at in free), key=good.get, default=None)
            if best is not None:
                free.remove(best)
                tp += 1
            elif not any(truth['crowds'][at] for at in good):
                fp += 1
        fn += len(free)
    counts = match(records).count(0.4)
    assert (counts.tp, counts.fp, counts.fn) == (tp, fp, fn) and min(tp, fp, fn) > 5


def overlap(one, two, crowd) -> float:
    width, height = (min(one[2 + axis], two[2 + axis]) - max(one[axis], two[axis]) for axis in (0, 1))
    inside = max(width, 0) * max(height, 0)
    first, second = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    return inside / (first if crowd else first + second - inside)


def test_both_sources_of_truth_agree(crowded):
    """Through data samples; there a box's area stands for the object's, so that only the sum over sizes agrees."""
    path, records = crowded
    samples = []
    for image, truth, found in zip(records.images, records.truths, records.detections, strict=True):
        crowds = truth['crowds']
        samples.append(
            sample(
                image['img_id'],
                (truth['bboxes'][~crowds], truth['labels'][~crowds]),
                (found['bboxes'], found['labels'], found['scores']),
                (truth['bboxes'][crowds], truth['labels'][crowds]),
            )
        )
    from_file = errors(*samples, ann_file=path)
    from_samples = errors(*samples)
    assert (
        from_file == from_samples
        and from_file['TP'] > 10
        and set(causes(from_file)) == {cause.replace(' ', '_') for cause in CAUSES}
    )

"""Panoptic quality, counted by hand, and against MMDetection's own matching where panopticapi is installed."""

import json

import cv2
import numpy as np
import pytest
import torch

from mmscale.evaluation.panoptic_metric import PanopticMetric, compare_segments, panoptic_quality

CLASSES, THINGS = ('cat', 'dog', 'sky', 'sea'), ('cat', 'dog')
META = dict(classes=CLASSES, thing_classes=THINGS)
CATEGORIES = [dict(id=10 * (i + 1), name=name, isthing=int(name in THINGS)) for i, name in enumerate(CLASSES)]


def row(*runs: tuple[int, int]) -> np.ndarray:
    """A map of one line: (value, length), ..."""
    return np.concatenate([np.full(length, value) for value, length in runs])[None]


def counts(truth, segments, predicted) -> dict[int, list[float]]:
    """Classes with anything counted: IoU sum, matches, false positives, false negatives."""
    found = compare_segments(truth, segments, predicted, len(CLASSES))
    return {label: [round(value, 6) for value in line] for label, line in enumerate(found.tolist()) if any(line)}


def test_a_match_needs_more_than_half():
    truth, segments = row((5, 10), (6, 10)), {5: (0, False), 6: (1, False)}
    assert counts(truth, segments, row((1000, 8), (1001, 12))) == {0: [0.8, 1, 0, 0], 1: [round(10 / 12, 6), 1, 0, 0]}
    # 5 of 10: an IoU of one half is no match
    assert counts(truth, segments, row((1000, 5), (1001, 15))) == {0: [0, 0, 1, 1], 1: [round(10 / 15, 6), 1, 0, 0]}
    # the right pixels under the wrong class
    assert counts(truth, segments, row((1001, 10), (2001, 10))) == {0: [0, 0, 0, 1], 1: [1, 1, 1, 0]}


def test_instances_of_a_class_are_told_apart_and_stuff_is_not():
    truth, segments = row((5, 10), (6, 10), (7, 10)), {5: (0, False), 6: (0, False), 7: (2, False)}
    assert counts(truth, segments, row((1000, 10), (2000, 10), (2, 10))) == {0: [2, 2, 0, 0], 2: [1, 1, 0, 0]}
    assert counts(truth, segments, row((1000, 20), (2, 10))) == {0: [0, 0, 1, 2], 2: [1, 1, 0, 0]}


def test_void_costs_nothing():
    truth, segments = row((0, 10), (5, 10)), {5: (0, False)}
    assert counts(truth, segments, row((1000, 20))) == {0: [1, 1, 0, 0]}, 'void does not widen the union'
    assert counts(truth, segments, row((1001, 6), (-1, 4), (1000, 10))) == {0: [1, 1, 0, 0]}, 'wholly on void'
    # 10 of 16 on void: excused; 10 of 20: not, since that is not more than half
    assert counts(truth, segments, row((1001, 16), (-1, 4))) == {0: [0, 0, 0, 1]}
    assert counts(truth, segments, row((1001, 20))) == {0: [0, 0, 0, 1], 1: [0, 0, 1, 0]}


def test_crowds_are_neither_found_nor_missed():
    truth, segments = row((5, 10), (6, 10)), {5: (0, True), 6: (2, False)}
    assert counts(truth, segments, row((1000, 10), (2, 10))) == {2: [1, 1, 0, 0]}
    assert counts(truth, segments, row((1001, 10), (2, 10))) == {1: [0, 0, 1, 0], 2: [1, 1, 0, 0]}, 'of another class'


def test_means_are_over_the_classes_that_occur():
    table = np.array([[1.6, 2, 1, 1], [0, 0, 0, 0], [0, 0, 2, 0], [0.9, 1, 0, 0]])
    # PQ: 1.6 / 3, 0 (only false positives), 0.9; SQ: 0.8, 0, 0.9; RQ: 2 / 3, 0, 1
    assert panoptic_quality(table) == pytest.approx((100 * (1.6 / 3 + 0.9) / 3, 170 / 3, 100 * (2 / 3 + 1) / 3, 3))
    assert np.isnan(panoptic_quality(table[1:2])[0])


def write(folder, truth: dict[int, np.ndarray], segments: dict[int, dict]) -> dict:
    """A panoptic JSON and its PNG files; the arguments of a metric that reads them."""
    (folder / 'png').mkdir()
    annotations = []
    for key, ids in truth.items():
        colours = np.stack([ids // 256**2, ids // 256 % 256, ids % 256], axis=-1).astype(np.uint8)  # BGR
        cv2.imwrite(str(folder / 'png' / f'{key}.png'), colours)
        entries = [
            dict(id=i, category_id=10 * (label + 1), iscrowd=int(crowd), area=int((ids == i).sum()), bbox=[])
            for i, (label, crowd) in segments[key].items()
        ]
        annotations.append(dict(image_id=key, file_name=f'{key}.png', segments_info=entries))
    images = [
        dict(id=key, file_name=f'{key}.jpg', height=ids.shape[0], width=ids.shape[1]) for key, ids in truth.items()
    ]
    (folder / 'truth.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=CATEGORIES)))
    return dict(ann_file=str(folder / 'truth.json'), seg_prefix=str(folder / 'png'))


def sample(key: int, predicted: np.ndarray) -> dict:
    return dict(
        img_id=key,
        img_path=f'{key}.jpg',
        ori_shape=predicted.shape,
        pred_panoptic_seg=dict(sem_seg=torch.from_numpy(predicted)[None].int()),
    )


def evaluate(metric, predicted: dict[int, np.ndarray]) -> dict[str, float]:
    metric.dataset_meta = META
    for key, values in predicted.items():
        metric.process({}, [sample(key, values)])
    return metric.evaluate(len(predicted))


def test_figures_of_a_run(tmp_path):
    big = 70000  # an id that needs all three colours
    files = write(
        tmp_path,
        {1: row((big, 10), (300, 10)), 2: row((7, 20))},
        {1: {big: (0, False), 300: (2, False)}, 2: {7: (2, False)}},
    )
    # label 4 is void
    predicted = {1: row((1000, 8), (2, 10), (4, 2)), 2: row((2, 20))}
    metrics = evaluate(PanopticMetric(**files), predicted)
    sky = (8 / 12 + 1) / 2  # the first image's: 8 of 10 + 2
    assert metrics == pytest.approx(
        {
            'coco_panoptic/PQ': 100 * (0.8 + sky) / 2,
            'coco_panoptic/SQ': 100 * (0.8 + sky) / 2,
            'coco_panoptic/RQ': 100,
            'coco_panoptic/PQ_th': 80,
            'coco_panoptic/SQ_th': 80,
            'coco_panoptic/RQ_th': 100,
            'coco_panoptic/PQ_st': 100 * sky,
            'coco_panoptic/SQ_st': 100 * sky,
            'coco_panoptic/RQ_st': 100,
        }
    )
    assert next(iter(metrics)) == 'coco_panoptic/PQ', "what save_best='auto' takes"


def test_mistakes_are_sentences(tmp_path):
    files = write(tmp_path, {1: row((5, 4))}, {1: {5: (0, False)}})
    metric = PanopticMetric(**files)
    with pytest.raises(ValueError, match="differ from number 1 on .*'dog', True.* instead of .*'dog', False"):
        metric.dataset_meta = dict(META, thing_classes=('cat',))
    with pytest.raises(ValueError, match='are not the data set.s 2 classes'):
        metric.dataset_meta = dict(classes=CLASSES[1::-1], thing_classes=THINGS)
    metric.dataset_meta = META
    with pytest.raises(ValueError, match='image id 9 of the test run is not in ann_file'):
        metric.process({}, [sample(9, row((0, 4)))])
    with pytest.raises(ValueError, match=r'has the shape \(1, 5\), its truth \(1, 4\)'):
        metric.process({}, [sample(1, row((0, 5)))])
    (tmp_path / 'png' / '1.png').unlink()
    with pytest.raises(FileNotFoundError, match="panoptic map '.*1.png' does not exist"):
        metric.process({}, [sample(1, row((0, 4)))])
    (tmp_path / 'instances.json').write_text(
        json.dumps(dict(images=[], annotations=[dict(image_id=1, bbox=[])], categories=[dict(id=1, name='cat')]))
    )
    with pytest.raises(ValueError, match="is no panoptic one .* should have 'categories' with 'isthing'"):
        PanopticMetric(str(tmp_path / 'instances.json'), str(tmp_path))


def test_equals_mmdetections_metric(tmp_path):
    pytest.importorskip('panopticapi', reason='panopticapi is on no package index')
    from mmdet.evaluation import CocoPanopticMetric

    generator = np.random.default_rng(0)
    truth, segments, predicted = {}, {}, {}
    for key in range(12):
        ids = generator.integers(0, 7, (8, 10)).repeat(4, 0).repeat(4, 1)
        truth[key] = np.where(ids, 100 * ids + key, 0)
        crowd = generator.random() < 0.5  # at most one of a class: panopticapi knows the last one only
        segments[key] = {i: ((i // 100) % 4, crowd and i // 100 == 4) for i in np.unique(truth[key]).tolist() if i}
        labels = (truth[key] // 100 % 4) + 1000 * (truth[key] // 100)
        noise = generator.random((8, 10)).repeat(4, 0).repeat(4, 1) < 0.2
        predicted[key] = np.where(noise, generator.integers(0, 5, noise.shape), labels)
    files = write(tmp_path, truth, segments)
    ours = evaluate(PanopticMetric(**files), predicted)
    theirs = evaluate(CocoPanopticMetric(**files), predicted)
    assert 5 < ours['coco_panoptic/PQ'] < 95 and ours == pytest.approx(theirs)

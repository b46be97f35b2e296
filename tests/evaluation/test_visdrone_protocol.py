"""VisDrone's rules, by hand."""
import numpy as np
import pytest

from mmscale.evaluation import DetectionMetric
from mmscale.evaluation.visdrone_protocol import share_in_regions

from ..datasets.tiny import write_coco
from .test_detection_metric import run, sample


def test_share_in_regions_counts_pixels():
    """Against counting pixel by pixel, from 1 as the toolkit does; its regions are a pixel larger than they say."""
    rng = np.random.default_rng(0)
    regions = [[3, 4, 20, 10], [15, 8, 20, 30], [-4, 40, 10, 30]]
    boxes = np.hstack([rng.integers(1, 40, (50, 2)), rng.integers(1, 30, (50, 2))])
    covered = np.zeros((61, 51), dtype=bool)  # pixels counted from 1
    for x, y, w, h in regions:
        left = max(1, x)
        covered[max(1, y):max(1, y) + h + 1, left:left + w + 1] = True
    expected = [covered[y + 1:min(y + h, 60) + 1, x + 1:min(x + w, 50) + 1].sum() / (w * h) for x, y, w, h in boxes]
    np.testing.assert_allclose(share_in_regions(boxes, regions, 60, 50), expected)
    assert 0 < np.mean(expected) < 1


def test_ignored_regions_drop_truth_and_detections():
    """Inside the region: an object nobody finds and a false alarm. Outside: one object, found."""
    regions = [[100, 100, 100, 100]]
    item = sample(truth=([[0, 0, 20, 20], [110, 110, 130, 130]], [0, 0]), ignored_regions=regions,
                  found=([[0, 0, 20, 20], [150, 150, 170, 170]], [0, 0], [0.5, 0.9]))
    metrics = run(DetectionMetric(protocols=('coco', 'visdrone')), [item])
    assert metrics['visdrone/AP'] == pytest.approx(1)
    assert metrics['coco/AP'] == pytest.approx(51 / 101 / 2), 'COCO knows no regions'


def test_regions_are_read_from_the_file(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1, width=200, height=200, ignored_regions=[[100, 100, 99, 99]])], [
        dict(image_id=1, category_id=1, bbox=[0, 0, 20, 20]), dict(image_id=1, category_id=1, bbox=[110, 110, 20, 20])])
    item = sample(found=([[0, 0, 20, 20]], [0], [0.5]))
    metrics = run(DetectionMetric(ann_file=str(path), protocols='visdrone'), [item], ('disk', 'square'))
    assert metrics['visdrone/AP'] == pytest.approx(1)


def test_limits_count_over_all_classes():
    """The best detection of the image is of class 0, so that class 1 finds nothing with one detection per image."""
    item = sample(truth=([[0, 0, 20, 20], [50, 50, 70, 70]], [0, 1]),
                  found=([[0, 0, 20, 20], [50, 50, 70, 70]], [0, 1], [0.9, 0.8]))
    metrics = run(DetectionMetric(protocols=('coco', 'visdrone')), [item])
    assert metrics['visdrone/AR1'] == pytest.approx(0.5) and metrics['visdrone/AR10'] == pytest.approx(1)
    assert metrics['coco/AR1'] == pytest.approx(1), 'COCO counts per class'


def test_the_area_under_the_curve():
    """Found, false alarm, found: precision 1 up to recall 1/2, then 2/3: area 5/6 at every IoU."""
    item = sample(truth=([[0, 0, 20, 20], [50, 50, 70, 70]], [0, 0]),
                  found=([[0, 0, 20, 20], [200, 200, 220, 220], [50, 50, 70, 70]], [0, 0, 0], [0.9, 0.8, 0.7]))
    metrics = run(DetectionMetric(protocols='visdrone', classwise=True), [item])
    for name in ('AP', 'AP50', 'AP75', 'AP_toolkit', 'AP/disk'):
        assert metrics[f'visdrone/{name}'] == pytest.approx(5 / 6)


def test_the_toolkit_weighs_classes_by_images():
    """Class 0 is found and seen in one image, class 1 missed and seen in three."""
    box = [[0, 0, 20, 20]]
    items = [sample(1, (box, [0]), (box, [0], [0.9]))] + [sample(key, (box, [1])) for key in (2, 3, 4)]
    for item in items[1:]:
        item['pred_instances'] = items[0]['pred_instances'].__class__(
            {key: value[:0] for key, value in items[0]['pred_instances'].items()})
    metrics = run(DetectionMetric(protocols='visdrone'), items)
    assert metrics['visdrone/AP'] == pytest.approx(1 / 2) and metrics['visdrone/AP_toolkit'] == pytest.approx(1 / 4)


def test_objects_with_score_zero_cost_nothing(tmp_path):
    """As the converter writes them: one is hit twice, by boxes inside it, one is missed; what counts is found last."""
    path = write_coco(tmp_path / 'a.json', [dict(id=1, width=200, height=200)], [
        dict(image_id=1, category_id=1, bbox=[0, 0, 20, 20]),
        dict(image_id=1, category_id=1, bbox=[50, 50, 40, 40], iscrowd=1),
        dict(image_id=1, category_id=1, bbox=[150, 150, 20, 20], iscrowd=1)])
    boxes = [[0, 0, 20, 20], [50, 50, 90, 90], [55, 55, 80, 80]]
    for labels, expected in (([0, 0, 0], 1), ([1, 0, 0], 0)):  # the other way round the hits alone earn nothing
        item = sample(found=(boxes, labels, [0.5, 0.9, 0.8]))
        metrics = run(DetectionMetric(ann_file=str(path), protocols='visdrone'), [item], ('disk', 'square'))
        for name in ('AP', 'AP_toolkit', 'AR500'):
            assert metrics[f'visdrone/{name}'] == pytest.approx(expected)

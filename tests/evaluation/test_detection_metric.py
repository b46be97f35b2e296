"""The metric against pycocotools, MMDetection's metrics and arithmetic by hand."""
import json
import math

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmdet.evaluation import VOCMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmscale.evaluation import CocoMetric, DetectionMetric, get_protocols

from ..datasets.tiny import write_coco

CLASSES = ('disk', 'square', 'cross')


def instances(boxes=(), labels=(), scores=None) -> dict:
    """Boxes (x1, y1, x2, y2) in the form of a data sample's instances."""
    found = dict(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels, dtype=int))
    if scores is not None:
        found['scores'] = torch.tensor(scores, dtype=torch.float32)
    return found


def sample(img_id=1, truth=((), ()), found=((), (), ()), ignored=((), ()), size=(480, 640), **extra) -> dict:
    return dict(img_id=img_id, ori_shape=size, gt_instances=instances(*truth), ignored_instances=instances(*ignored),
                pred_instances=instances(*found), **extra)


def run(metric, samples, classes=CLASSES) -> dict:
    metric.dataset_meta = dict(classes=classes)
    for item in samples:
        metric.process({}, [item])
    return metric.evaluate(len(samples))


@pytest.fixture(scope='module')
def random_run(tmp_path_factory):
    """A COCO file with crowds, areas below their boxes' and empty images, and imperfect detections."""
    rng = np.random.default_rng(3)
    annotations, samples = [], []
    for img_id in range(1, 16):
        count = 0 if img_id % 5 == 0 else int(rng.integers(2, 9))
        xy, wh = rng.uniform(0, 300, (count, 2)), np.exp(rng.uniform(1.5, 5.5, (count, 2)))
        labels, crowds = rng.integers(0, 3, count), rng.random(count) < 0.15
        for position, label, crowd, size in zip(xy, labels, crowds, wh, strict=True):
            annotations.append(dict(image_id=img_id, category_id=int(label) + 1, bbox=[*position, *size],
                                    iscrowd=int(crowd), area=float(size.prod() * rng.uniform(0.5, 1))))
        boxes = np.hstack([xy, xy + wh])
        near = np.repeat(boxes, 2, axis=0) + rng.normal(0, 3, (2 * count, 4))
        far = rng.uniform(0, 200, (4, 4)).cumsum(axis=1)
        found = np.vstack([near, far])
        guesses = np.concatenate([np.repeat(labels, 2), rng.integers(0, 3, 4)])
        samples.append(sample(img_id, (boxes[~crowds], labels[~crowds]), (found, guesses, rng.random(len(found))),
                              (boxes[crowds], labels[crowds])))
    images = [dict(id=key, width=640, height=480) for key in range(1, 16)]
    path = write_coco(tmp_path_factory.mktemp('run') / 'a.json', images, annotations, CLASSES)
    return str(path), samples


def test_coco_equals_pycocotools(random_run, tmp_path):
    path, samples = random_run
    metrics = run(DetectionMetric(ann_file=path, classwise=True, outfile_prefix=str(tmp_path / 'out' / 'a')), samples)
    truth = COCO(path)
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / 'out' / 'a.bbox.json')), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ('AP', 'AP50', 'AP75', 'AP_S', 'AP_M', 'AP_L', 'AR1', 'AR10', 'AR100', 'AR_S', 'AR_M', 'AR_L')
    ours = [metrics[f'coco/{name}'] for name in names]
    np.testing.assert_allclose(ours, evaluation.stats, atol=1e-12)
    assert 0.1 < metrics['coco/AP'] < 0.9 and len(set(ours[:6])) == 6
    per_class = [metrics[f'coco/AP/{name}'] for name in CLASSES]
    assert np.mean(per_class) == pytest.approx(metrics['coco/AP'], abs=1e-12)
    assert not list((tmp_path / 'out').glob('*.tmp'))


def test_coco_equals_mmdetection(random_run):
    path, samples = random_run
    ours = run(DetectionMetric(ann_file=path), samples)
    theirs = run(MMDetCocoMetric(ann_file=path), samples)
    for our, their in (('AP', 'mAP'), ('AP50', 'mAP_50'), ('AP75', 'mAP_75'), ('AP_S', 'mAP_s'), ('AP_L', 'mAP_l')):
        assert round(ours[f'coco/{our}'], 3) == theirs[f'coco/bbox_{their}']


@pytest.mark.parametrize(('protocol', 'mode'), [('voc07', '11points'), ('voc12', 'area')])
def test_voc_equals_mmdetection(random_run, protocol, mode):
    _, samples = random_run
    ours = run(DetectionMetric(protocols=protocol, classwise=True), samples)
    theirs = run(VOCMetric(eval_mode=mode), samples)
    assert ours[f'{protocol}/mAP'] == pytest.approx(theirs['pascal_voc/mAP'], abs=1e-6)
    assert 0.1 < ours[f'{protocol}/mAP'] < 0.9


def test_both_sources_of_truth_agree(random_run):
    path, samples = random_run
    from_file = run(DetectionMetric(ann_file=path, protocols=('voc07', 'coco')), samples)
    from_samples = run(DetectionMetric(protocols=('voc07', 'coco')), samples)
    assert set(from_file) == set(from_samples)
    for name in ('voc07/mAP', 'coco/AP', 'coco/AP50'):
        assert from_file[name] == pytest.approx(from_samples[name], abs=1e-5)


def test_voc_and_coco_out_of_one_run():
    """Two objects, one found at IoU 0.8: eleven-point AP 6/11, area 0.5, COCO AP 51/101 at 7 of 10 thresholds."""
    item = sample(truth=([[0, 0, 20, 20], [50, 50, 70, 70]], [0, 0]), found=([[0, 0, 20, 16]], [0], [0.9]))
    metrics = run(DetectionMetric(protocols=('voc07', 'voc12', 'coco')), [item])
    assert metrics['voc07/mAP'] == pytest.approx(6 / 11)
    assert metrics['voc12/mAP'] == pytest.approx(0.5)
    assert metrics['coco/AP'] == pytest.approx(0.7 * 51 / 101)
    assert metrics['coco/AP_S'] == metrics['coco/AP']


def test_difficult_objects_do_not_count():
    """A difficult object costs nothing when missed and nothing when found."""
    found = ([[0, 0, 20, 20], [50, 50, 70, 70]], [0, 0], [0.5, 0.9])
    item = sample(truth=([[0, 0, 20, 20]], [0]), ignored=([[50, 50, 70, 70], [90, 90, 99, 99]], [0, 0]), found=found)
    metrics = run(DetectionMetric(protocols=('voc07', 'coco')), [item])
    assert metrics['voc07/mAP'] == pytest.approx(1) and metrics['coco/AP'] == pytest.approx(1)


def test_a_bin_without_truth_says_so(monkeypatch):
    lines = []
    monkeypatch.setattr('mmengine.logging.MMLogger.info', lambda self, message, *_: lines.append(message))
    item = sample(truth=([[0, 0, 20, 20]], [0]), found=([[0, 0, 20, 20]], [0], [0.9]))
    metrics = run(DetectionMetric(protocols=('coco', 'voc12'), classwise=True), [item])
    assert metrics['coco/AP_S'] == pytest.approx(1) and math.isnan(metrics['coco/AP_L'])
    assert math.isnan(metrics['coco/AP/square']) and math.isnan(metrics['voc12/AP/square'])
    assert metrics['voc12/mAP'] == pytest.approx(1), 'classes without objects do not enter the mean'
    table = '\n'.join(lines)
    cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.splitlines() if line.startswith('|')]
    shown = {row[0]: row[1:3] for row in cells}
    assert shown['AP_S'] == ['1.000', '1'] and shown['AP_L'] == ['no GT', '0'] and '-1' not in table
    assert 'Lin et al.' in table and 'Everingham' in table


def test_no_detection_at_all(random_run):
    path, samples = random_run
    nothing = [dict(item, pred_instances=instances(scores=())) for item in samples]
    for metric in (DetectionMetric(ann_file=path, protocols=('coco', 'voc07', 'visdrone', 'aitod')),
                   DetectionMetric(protocols=('coco', 'voc07', 'visdrone', 'aitod'))):
        metrics = run(metric, nothing)
        assert metrics['coco/AP'] == metrics['voc07/mAP'] == metrics['visdrone/AP'] == metrics['aitod/AP'] == 0


def test_no_object_at_all():
    metrics = run(DetectionMetric(protocols=('coco', 'voc07', 'visdrone')), [
        sample(1, found=([[0, 0, 9, 9]], [0], [0.9])), sample(2)])
    assert all(math.isnan(value) for value in metrics.values()) and len(metrics) == 23


def test_a_metric_serves_several_epochs():
    metric = DetectionMetric()
    good = sample(truth=([[0, 0, 20, 20]], [0]), found=([[0, 0, 20, 20]], [0], [0.9]))
    assert run(metric, [sample(truth=([[0, 0, 20, 20]], [0]), found=([[0, 0, 9, 9]], [0], [0.9]))])['coco/AP'] == 0
    assert run(metric, [good])['coco/AP'] == pytest.approx(1)


def test_aitod_sizes():
    """Objects of 1, 6, 12, 24, 48 and 100 pixels: with open ends the smallest is in vt and the largest in m."""
    sides = (6, 12, 24, 48, 100, 1)
    boxes = [[150 * i, 0, 150 * i + side, side] for i, side in enumerate(sides)]
    metrics = run(DetectionMetric(protocols='aitod'), [
        sample(truth=(boxes, [0] * 6), found=(boxes[::2], [0, 0, 0], [0.9, 0.8, 0.7]), size=(200, 900))])
    bins = [metrics[f'aitod/AP_{name}'] for name in ('vt', 't', 's', 'm')]
    np.testing.assert_allclose(bins, [51 / 101, 0, 1, 51 / 101])
    assert metrics['aitod/AP'] == pytest.approx(51 / 101)


def test_categories_in_another_order_than_the_classes(tmp_path):
    """Labels follow the class names, for boxes and for MMDetection's mask metric."""
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [
        dict(image_id=1, category_id=2, bbox=[0, 0, 20, 20], segmentation=[[0, 0, 20, 0, 20, 20, 0, 20]])])
    item = sample(found=([[0, 0, 20, 20]], [0], [0.9]))
    for metric, name in ((DetectionMetric(ann_file=str(path)), 'coco/AP'), (CocoMetric(str(path)), 'coco/bbox_mAP')):
        assert run(metric, [item], classes=('square', 'disk'))[name] == pytest.approx(1)


def test_an_annotation_of_id_zero_counts(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [dict(id=0, image_id=1, category_id=1, bbox=[0, 0, 20, 20])])
    assert run(DetectionMetric(ann_file=str(path)), [sample(found=([[0, 0, 20, 20]], [0], [0.9]))],
               ('disk', 'square'))['coco/AP'] == pytest.approx(1)


def test_format_only(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=7)], [], CLASSES)
    metric = DetectionMetric(ann_file=str(path), format_only=True, outfile_prefix=str(tmp_path / 'new' / 'test'))
    assert run(metric, [dict(sample(7, found=([[1, 2, 11, 22]], [2], [0.5])), gt_instances={})]) == {}
    assert json.loads((tmp_path / 'new' / 'test.bbox.json').read_text()) == [
        dict(image_id=7, category_id=3, bbox=[1, 2, 10, 20], score=0.5)]
    with pytest.raises(ValueError, match='needs outfile_prefix'):
        DetectionMetric(format_only=True)


def test_a_prefix_keeps_two_metrics_apart():
    item = sample(truth=([[0, 0, 20, 20]], [0]))
    assert 'night/coco/AP' in run(DetectionMetric(prefix='night'), [item])


@pytest.mark.parametrize('names', ['coco2017', ('coco', 'coco'), ()])
def test_unknown_protocols(names):
    with pytest.raises(ValueError, match=r"different ones of \('coco', 'voc07', 'voc12', 'visdrone', 'aitod'\)"):
        get_protocols(names)


def test_classes_that_are_not_in_the_file(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [])
    with pytest.raises(ValueError, match=r"\('cat'\) occurs in '.*a.json', which has \('disk', 'square'\)"):
        DetectionMetric(ann_file=str(path)).dataset_meta = dict(classes=('cat', ))
    with pytest.raises(ValueError, match=r"lacks the categories \['cat'\]"):
        CocoMetric(str(path)).dataset_meta = dict(classes=('disk', 'cat'))


def test_images_that_are_not_in_the_file(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [], CLASSES)
    with pytest.raises(ValueError, match='image id 2 of the test run is not in ann_file'):
        run(DetectionMetric(ann_file=str(path)), [sample(2)])


def test_a_part_of_the_images_is_reported(random_run, monkeypatch):
    path, samples = random_run
    messages = []
    monkeypatch.setattr('mmscale.evaluation.detection_metric.print_log', lambda message, **_: messages.append(message))
    run(DetectionMetric(ann_file=path), samples[:4])
    assert len(messages) == 1 and 'left out 11 of 15 images' in messages[0]


def test_a_model_with_other_classes():
    with pytest.raises(ValueError, match="predicted label 79 on image 1, but the data set has 3 classes"):
        run(DetectionMetric(), [sample(found=([[0, 0, 9, 9]], [79], [0.9]))])


def test_samples_without_truth():
    item = sample()
    del item['gt_instances']
    with pytest.raises(ValueError, match='image 1 came without gt_instances: give the metric an ann_file, or put'):
        run(DetectionMetric(), [item])


def test_a_run_without_images():
    with pytest.raises(ValueError, match='the test run had no image'):
        DetectionMetric().compute_metrics([])


def test_masks_without_truth_say_so(tmp_path, monkeypatch):
    """MMDetection's -1 becomes NaN, and a line names the metrics."""
    messages = []
    monkeypatch.setattr('mmscale.evaluation.coco_metric.print_log', lambda message, **_: messages.append(message))
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [
        dict(image_id=1, category_id=1, bbox=[0, 0, 20, 20], segmentation=[[0, 0, 20, 0, 20, 20, 0, 20]])])
    item = sample(found=([[0, 0, 20, 20]], [0], [0.9]))
    item['pred_instances']['masks'] = torch.zeros(1, 48, 64, dtype=bool)
    item['pred_instances']['masks'][:, :20, :20] = True
    metrics = run(CocoMetric(str(path), metric='segm'), [item], ('disk', 'square'))
    assert metrics['coco/segm_mAP'] == metrics['coco/segm_mAP_s'] == pytest.approx(1)
    assert math.isnan(metrics['coco/segm_mAP_m']) and math.isnan(metrics['coco/segm_mAP_l'])
    assert messages == ['no GT for segm_mAP_m, segm_mAP_l']


@pytest.mark.parametrize(('count', 'protocols', 'named'), [
    (100, ('coco', 'visdrone', 'aitod'), 'visdrone (500), aitod (1500)'), (100, 'coco', None), (99, 'visdrone', None),
    (0, 'visdrone', None), (500, 'visdrone', None), (300, 'visdrone', 'visdrone (500)')])
def test_a_cap_on_detections_is_reported_once(monkeypatch, count, protocols, named):
    messages = []
    monkeypatch.setattr('mmscale.evaluation.detection_metric.print_log', lambda message, **_: messages.append(message))
    found = ([[0, 0, 20, 20]] * count, [0] * count, [0.5] * count)
    metric = DetectionMetric(protocols=protocols)
    for _ in range(2):
        run(metric, [sample(truth=([[0, 0, 20, 20]], [0]), found=found), sample(2)])
    if named is None:
        assert not messages
    else:
        message, = messages
        assert f'max_per_img={count}, but more count under {named}: raise model.test_cfg.max_per_img' in message


def test_mirrored_truth_is_refused(tmp_path):
    """The first view of a user's own tta_pipeline; with a file the truth is not the view's."""
    item = sample(truth=([[0, 0, 20, 20]], [0]), flip=True)
    with pytest.raises(ValueError, match=r'image 1 came mirrored \(flip=True\).* first in the tta_pipeline, or give'):
        run(DetectionMetric(), [item])
    run(DetectionMetric(), [dict(item, flip=False)])
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [], CLASSES)
    run(DetectionMetric(ann_file=str(path)), [item])

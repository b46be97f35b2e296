"""The error analysis from weights, pickles and COCO results, on truth in both formats."""

import importlib.util
import json
import pickle
import sys

import numpy as np
import pytest
import torch

from mmscale.analysis.error_analysis import Run, best_f1, build_bare, match_file, to_dict
from mmscale.analysis.error_analysis_command import main, name_runs, pair_sources
from mmscale.analysis.error_analysis_tables import error_tables
from mmscale.analysis.model import load_config
from mmscale.evaluation.matching import CAUSES, Matches
from tests.datasets.tiny import voc_xml, write_coco, write_voc
from tests.engine.conftest import draw_images, fill_config, own_process_state  # noqa: F401 (autouse: runs are started)

CLASSES = ('disk', 'square')

VOC_CONFIG = """
default_scope = 'mmdet'
model = dict(type='FCOS')
test_dataloader = dict(dataset=dict(
    type='mmscale.VOCDataset', data_root={root!r}, ann_file='ImageSets/Main/test.txt', test_mode=True,
    metainfo=dict(classes=('disk', 'square')), pipeline=[dict(type='NotBuilt')]))
test_evaluator = dict(type='mmscale.DetectionMetric', protocols='voc07')
"""


def found(img_id, boxes=(), labels=(), scores=()) -> dict:
    """One image's predictions as test.py --out writes them."""
    instances = dict(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
        scores=torch.tensor(scores, dtype=torch.float32),
    )
    return dict(img_id=img_id, ori_shape=(48, 64), pred_instances=instances)


def write_pickle(path, samples) -> str:
    path.write_bytes(pickle.dumps(samples))
    return str(path)


@pytest.fixture
def voc(tmp_path):
    """Two images, three objects and a difficult one: the config, and predictions of a baseline and a candidate."""
    root = tmp_path / 'voc'
    write_voc(root, {
        'a': voc_xml([('disk', 1, 1, 21, 21), ('square', 31, 1, 51, 21)]),
        'b': voc_xml([('disk', 1, 1, 21, 21), ('disk', 31, 1, 51, 21, 1)]),
    }, split='test', with_images=False)  # fmt: skip
    config = tmp_path / 'voc.py'
    config.write_text(VOC_CONFIG.format(root=str(root)))
    box, other = [0, 0, 20, 20], [30, 0, 50, 20]
    baseline = write_pickle(tmp_path / 'baseline.pkl', [
        found('a', [box, box, [40, 30, 60, 45]], [0, 0, 0], [0.9, 0.8, 0.7]),
        found('b', [box], [0], [0.4])])  # fmt: skip
    candidate = write_pickle(tmp_path / 'candidate.pkl', [
        found('b', [box, other], [0, 0], [0.6, 0.9]), found('a', [box, other], [0, 1], [0.9, 0.5])])  # fmt: skip
    return str(config), baseline, candidate


def test_truth_of_a_data_set(voc):
    """Boxes count from 0, difficult objects are ignored, the order of the predictions does not matter."""
    config, baseline, candidate = voc
    cfg = load_config(config)
    counts = match_file(baseline, cfg).count(0.5)
    assert (counts.tp, counts.fp, counts.fn) == (1, 2, 2)
    assert counts.causes == {**dict.fromkeys(CAUSES, 0), 'duplicate': 1, 'background': 1}
    counts = match_file(candidate, cfg).count(0.5)
    assert (counts.tp, counts.fp, counts.fn) == (3, 0, 0)


def test_side_by_side(voc, capsys, tmp_path):
    config, baseline, candidate = voc
    main([config, baseline, candidate, '--json', str(tmp_path / 'out' / 'a.json'), '--plot', str(tmp_path / 'a.png'),
          '--sweep'])  # fmt: skip
    text = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines() if line.startswith('|')]
    assert cells[2:6] == [
        ['all', 'baseline', '1', '2', '2', '0.333', '0.333', '0.333'],
        ['', 'candidate', '3', '0', '0', '1.000', '1.000', '1.000'],
        ['', 'difference', '+2', '-2', '-2', '+0.667', '+0.667', '+0.667'],
        ['', 'relative', '+200.00 %', '-100.00 %', '-100.00 %', '+200.00 %', '+200.00 %', '+200.00 %'],
    ]
    square = cells.index(['square', 'baseline', '0', '0', '1', '-', '0.000', '0.000'])
    assert cells[square + 2] == ['', 'difference', '+1', '+0', '-1', '-', '+1.000', '+1.000']
    assert cells[square + 3] == ['', 'relative', '-', '-', '-100.00 %', '-', '-', '-']
    assert 'baseline: best F1 0.571 from score 0.400' in text and '2 images, 3 objects; IoU from 0.5' in text
    content = json.loads((tmp_path / 'out' / 'a.json').read_text())
    assert [run['sizes']['all']['FP'] for run in content] == [2, 0] and len(content[0]['sweep']) == 19
    assert content[0]['classes']['square']['precision'] is None
    assert (tmp_path / 'a.png').stat().st_size > 10000


@pytest.fixture
def results(tmp_path):
    """A COCO file whose categories are not in the order of the classes, and results: one found, one in a crowd."""
    ann_file = write_coco(tmp_path / 'truth.json', [dict(id=7), dict(id=9)], [
        dict(image_id=7, category_id=1, bbox=[0, 0, 20, 20]),
        dict(image_id=9, category_id=2, bbox=[0, 0, 40, 40], iscrowd=1)], ('square', 'disk'))  # fmt: skip
    path = tmp_path / 'results.bbox.json'
    path.write_text(json.dumps([
        dict(image_id=7, category_id=1, bbox=[0, 0, 20, 20], score=0.9),
        dict(image_id=9, category_id=2, bbox=[5, 5, 10, 10], score=0.9)]))  # fmt: skip
    return str(ann_file), str(path)


def test_results_without_a_config(results, capsys):
    ann_file, path = results
    main([path, '--ann-file', ann_file])
    text = capsys.readouterr().out
    assert '2 images, 1 objects' in text and 'difference' not in text
    assert '| square | results.bbox |  1 |  0 |  0 |     1.000 |  1.000 | 1.000 |' in text


def test_results_with_a_config(results, tmp_path):
    """Categories are matched by name; the evaluator's own file is the truth."""
    ann_file, path = results
    config = tmp_path / 'coco.py'
    config.write_text(f"""
default_scope = 'mmdet'
model = dict(type='FCOS')
test_dataloader = dict(dataset=dict(type='RepeatDataset', times=1, dataset=dict(
    type='mmscale.CocoDataset', ann_file={ann_file!r}, test_mode=True, data_prefix=dict(img=''),
    metainfo=dict(classes=('disk', 'square')))))
test_evaluator = [dict(type='CocoMetric', ann_file={ann_file!r}), dict(type='mmscale.DetectionErrorMetric')]
""")
    matches = match_file(path, load_config(str(config)))
    assert matches.classes == CLASSES and matches.count(0.5, label=1).tp == 1 and matches.count(0.5).fp == 0


def test_results_of_a_voc_set(voc, tmp_path):
    """As DetectionMetric writes them without an annotation file: categories are labels."""
    path = tmp_path / 'voc.bbox.json'
    path.write_text(json.dumps([dict(image_id='a', category_id=1, bbox=[30, 0, 20, 20], score=0.9)]))
    counts = match_file(str(path), load_config(voc[0])).count(0.5)
    assert (counts.tp, counts.fp, counts.fn) == (1, 0, 2)


def test_from_weights(tmp_path, capsys):
    """Random weights, run once; the predictions that were kept give the same."""
    from mmengine.runner import Runner

    draw_images(tmp_path / 'data', number=3)
    config = tmp_path / 'tiny.py'
    config.write_text(fill_config(tmp_path / 'data', extra=f'work_dir = {str(tmp_path / "work")!r}'))
    cfg = load_config(str(config))
    cfg.experiment_name = 'weights'  # runners of one name and one second share a logger and its level
    torch.manual_seed(0)
    model = Runner.from_cfg(cfg).model
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'tiny.pth')
    capsys.readouterr()
    main([str(config), str(tmp_path / 'tiny.pth'), '--score', '0.01', '--out-dir', str(tmp_path / 'kept')])
    text = capsys.readouterr().out
    assert 'System environment' not in text, 'the tables are not to be looked for in the log'
    first = text.partition('3 images, 6 objects')[2]
    main([str(config), str(tmp_path / 'kept' / 'tiny.pkl'), '--score', '0.01'])
    assert first and capsys.readouterr().out.partition('3 images, 6 objects')[2] == first
    with pytest.raises(SystemExit):
        main([str(config), str(tmp_path / 'missing.pth')])
    assert capsys.readouterr().err == f"error: '{tmp_path / 'missing.pth'}' does not exist\n"


def test_best_f1():
    """Of three objects: precision 1, 2/3, 3/4 and recall 1/3, 2/3, 1 at falling scores; equal scores pass together."""
    scores = np.array([0.9, 0.7, 0.7, 0.5, 0.3], dtype=np.float32)
    right = np.zeros((4, 5), dtype=bool)
    right[0] = [True, False, True, True, False]
    truths = np.array([[3], [0], [0], [0]])
    zeros = np.zeros(5, int)
    matches = Matches(('disk',), 0.5, 1, truths, scores, zeros, right, ~right, zeros)
    threshold, counts = best_f1(matches)
    assert threshold == 0.5 and counts.f1 == pytest.approx(6 / 7)
    equal = np.array([0.9, 0.7, 0.7, 0.7, 0.7], dtype=np.float32)  # two objects: F1 is 2/3, then 4/7 and never 1
    right[0] = [True, True, False, False, False]
    matches = Matches(('disk',), 0.5, 1, truths // 3 * 2, equal, zeros, right, ~right, zeros)
    assert best_f1(matches)[0] == equal[0] and best_f1(matches)[1].f1 == pytest.approx(2 / 3)
    right = np.zeros((4, 5), dtype=bool)
    nothing = Matches(('disk', ), 0.5, 1, truths, scores, np.zeros(5, int), right & False, right & False,
                      np.zeros(5, int))  # fmt: skip
    assert np.isnan(best_f1(nothing)[0]) and to_dict(Run('a', nothing), 0.5)['best_f1']['score_thr'] is None
    assert 'a: no detection that counts' in error_tables([Run('a', nothing)], 0.5)


def test_names_and_pairs():
    pairs = pair_sources(['mmdet::a/b.py', 'x/epoch_1.pth', 'y/epoch_1.pth'])
    assert pairs == [('mmdet::a/b.py', 'x/epoch_1.pth'), ('mmdet::a/b.py', 'y/epoch_1.pth')]
    assert name_runs(pairs, None) == ['x/epoch_1', 'y/epoch_1'] and name_runs(pairs, ['one', 'two']) == ['one', 'two']
    assert name_runs([('a.py', 'e.pth'), ('b.py', 'e.pth')], None) == ['a', 'b']


@pytest.mark.parametrize(('arguments', 'message'), [
    (['a.py'], "config 'a.py' should be followed by its checkpoint or predictions"),
    (['a.py', 'b.py', 'b.pkl'], "config 'a.py' should be followed by its checkpoint or predictions, not 'b.py'"),
    (['a.pth'], "'a.pth' needs a config before it"),
    (['a.py', 'a.pkl', 'b.pkl', 'c.pkl'], '3 runs were given: a baseline and one candidate can be compared'),
    (['a.py', 'a.pkl', '--iou', '0.05'], 'iou_thr=0.05 should be above 0.1, where background ends, and at most 1'),
    (['a.py', 'a.pkl', '--score', '50'], 'score_thr=50.0 should lie between 0 and 1'),
    (['a.py', 'a.pkl', '--names', 'b', 'c'], '--names b c should be 1, one for each run'),
])  # fmt: skip
def test_mistakes_on_the_command_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and capsys.readouterr().err == f'error: {message}\n'


def test_mistakes_in_predictions(voc, results, tmp_path, capsys):
    config, baseline, _ = voc
    cfg = load_config(config)
    ann_file, path = results
    for name, content, message in (
        ('few.pkl', [found('a')], "are of 1 images, the config's test set has 2"),
        ('other.pkl', [found('c')], "are of image 'c', which is not in the config's test set"),
        ('label.pkl', [found('a', [[0, 0, 9, 9]], [2], [0.9])], 'predicted label 2'),
        ('list.pkl', [1], 'a list of data samples with pred_instances'),
        ('dict.json', {}, 'should be COCO results'),
        ('id.json', [dict(image_id='z', category_id=0, bbox=[0, 0, 1, 1], score=1)], "have the image_id 'z'"),
        ('box.json', [dict(image_id='a', category_id=0, bbox=[0, 0, 1], score=1)], 'not \\[x, y, width, height\\]'),
        ('class.json', [dict(image_id='a', category_id=9, bbox=[0, 0, 1, 1], score=1)], 'have the category_id 9'),
    ):
        file = tmp_path / name
        file.write_bytes(pickle.dumps(content) if name.endswith('.pkl') else json.dumps(content).encode())
        with pytest.raises(ValueError, match=message):
            match_file(str(file), cfg)
    (tmp_path / 'cut.pkl').write_bytes((tmp_path / 'few.pkl').read_bytes()[:50])
    with pytest.raises(ValueError, match='no whole pickle'):
        match_file(str(tmp_path / 'cut.pkl'), cfg)
    with pytest.raises(ValueError, match='need a config, or the COCO file --ann-file'):
        match_file(path, None)
    with pytest.raises(SystemExit):
        main([config, baseline, config, path, '--ann-file', ann_file])
    assert 'image id' in capsys.readouterr().err


def test_runs_on_different_truth(voc, tmp_path, capsys):
    config, baseline, _ = voc
    write_voc(tmp_path / 'more', {'a': voc_xml([('disk', 1, 1, 21, 21)])}, split='test', with_images=False)
    other = tmp_path / 'other.py'
    other.write_text(VOC_CONFIG.format(root=str(tmp_path / 'more')))
    predictions = write_pickle(tmp_path / 'other.pkl', [found('a')])
    with pytest.raises(SystemExit):
        main([config, baseline, str(other), predictions])
    error = capsys.readouterr().err
    assert 'different ground truth' in error and "'voc' has 2 images, 3 objects" in error and '1 images, 1 ob' in error


def test_bare_data_sets_read_no_image(voc):
    dataset = build_bare(dict(type='ConcatDataset', datasets=[load_config(voc[0]).test_dataloader.dataset] * 2))
    assert len(dataset) == 4 and not dataset.datasets[0].pipeline.transforms


def test_the_tool_is_the_command(repo):
    spec = importlib.util.spec_from_file_location('tool', repo / 'tools' / 'analysis' / 'error_analysis.py')
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    assert module.main is main

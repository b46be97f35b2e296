"""Metrics under noise: the clean one is test.py's, the others are those of images that were made noisy beforehand."""

import json
import shutil

import cv2
import pytest

from mmscale.analysis.noise_robustness import NoiseCurve, add_noise, check_sigmas, noise_table
from mmscale.analysis.noise_robustness_command import main, name_models
from mmscale.datasets import GaussianNoise
from mmscale.engine.test import build_parser, prepare
from mmscale.engine.test import test as run_test
from mmscale.engine.train import main as train
from tests.engine.conftest import draw_images, fill_config, own_process_state  # noqa: F401 (a fixture)

EXTRA = """
    optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.004))
    param_scheduler = []
    default_hooks.update(checkpoint=dict(type='CheckpointHook', interval=8))
    test_evaluator = dict(type='mmscale.DetectionMetric', ann_file=data_root + '/train.json')
"""


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A detector that has learned its eight images well enough to lose something."""
    root = tmp_path_factory.mktemp('noise')
    draw_images(root / 'data')
    config = root / 'tiny.py'
    config.write_text(fill_config(root / 'data', epochs=8, extra=EXTRA))
    off = [f'{key}=None' for key in ('val_cfg', 'val_dataloader', 'val_evaluator')]
    train([str(config), '--work-dir', str(root / 'run'), '--cfg-options', 'log_level=WARNING', *off])
    return config, root / 'run' / 'epoch_8.pth'


def metrics_of(config, checkpoint, work_dir) -> dict:
    """What test.py says."""
    return run_test(prepare(build_parser().parse_args([str(config), str(checkpoint), '--work-dir', str(work_dir)])))


def run(*argv) -> None:
    main([str(argument) for argument in argv])


def test_figures_are_those_of_test_py(trained, tmp_path, capsys):
    config, checkpoint = trained
    report, plot = tmp_path / 'noise.json', tmp_path / 'noise.svg'
    options = ('--sigmas', 60, '--seed', 3, '--work-dir', tmp_path / 'run', '--json', report, '--out', plot)
    workers = ('--cfg-options', 'test_dataloader.num_workers=1', 'test_dataloader.persistent_workers=True')
    run(config, checkpoint, config, checkpoint, '--names', 'one', 'two', *options, *workers)
    first, second = json.loads(report.read_text())['models']
    assert first['sigmas'] == [0, 60] and first['metrics'] == second['metrics']  # all models see the same noise
    clean, noisy = first['metrics']
    wanted = metrics_of(config, checkpoint, tmp_path / 'clean')
    assert {name: wanted[name] for name in ('coco/AP', 'coco/AP50', 'coco/AR100')}.items() <= clean.items()
    assert clean['coco/AP'] > 0.02 and clean['coco/AP'] != noisy['coco/AP']
    assert clean['coco/AP_L'] is None  # there is no large object, and JSON has no NaN

    data = tmp_path / 'data'  # the same noise, written into the images
    shutil.copytree(config.parent / 'data', data)
    for path in data.glob('images/*.png'):
        image = GaussianNoise(60, seed=3)(dict(img=cv2.imread(str(path)), img_path=str(path)))['img']
        cv2.imwrite(str(path), image)
    (tmp_path / 'tiny.py').write_text(fill_config(data, extra=EXTRA))
    assert metrics_of(tmp_path / 'tiny.py', checkpoint, tmp_path / 'noisy')['coco/AP'] == noisy['coco/AP']

    said = capsys.readouterr().out
    change = f'({noisy["coco/AP"] / clean["coco/AP"] - 1:+.1%})'
    assert '| coco/AP |' in said and '| two ' in said and change in said
    assert plot.read_text().count('one') and not list(tmp_path.glob('noise.svg.*'))


def test_mistakes(trained, tmp_path, capsys):
    config, checkpoint = trained

    def says(*argv):
        with pytest.raises(SystemExit) as stop:
            run(*argv, '--work-dir', tmp_path / 'run')
        assert stop.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert 'each needs a config and its checkpoint' in says(config)
    assert '--names a b should name 1 models' in says(config, checkpoint, '--names', 'a', 'b')
    assert 'sigma -5.0 must be a number from 0' in says(config, checkpoint, '--sigmas', '-5')
    assert "picture 'a.txt' should end in" in says(config, checkpoint, '--out', 'a.txt')
    assert "checkpoint 'none.pth' does not exist" in says(config, 'none.pth')
    line = says(config, checkpoint, '--sigmas', 0, '--metric', 'coco/mAP')
    assert "gives no metric 'coco/mAP': choose among coco/AP" in line
    line = says(config, checkpoint, '--cfg-options', 'model.bbox_head.stacked_convs=2')
    assert 'belongs to another model' in line


def test_the_first_metric_unless_named(trained, tmp_path, capsys):
    """Configs of MMDetection evaluate with its own metric, which has other names than ours."""
    config, checkpoint = trained
    text = config.read_text() + "test_evaluator = dict(type='CocoMetric', ann_file=data_root + '/train.json')\n"
    (tmp_path / 'theirs.py').write_text(text)
    run(tmp_path / 'theirs.py', checkpoint, '--sigmas', 0, '--work-dir', tmp_path / 'run')
    assert '| coco/bbox_mAP |' in capsys.readouterr().out


def test_noise_goes_behind_the_loading_of_every_pipeline(trained):
    config, checkpoint = trained
    cfg = prepare(build_parser().parse_args([str(config), str(checkpoint)]))
    one = cfg.test_dataloader.dataset
    other = one.copy()
    other.pipeline = [dict(type='LoadImageFromFile', to_float32=True), *one.pipeline[1:]]
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[one, dict(type='RepeatDataset', dataset=other)])
    add_noise(cfg, seed=4)
    joined = cfg.test_dataloader.dataset.datasets
    for dataset in (joined[0], joined[1].dataset):
        assert dataset.pipeline[1] == dict(type='mmscale.GaussianNoise', sigma=0.0, seed=4)
        assert dataset.pipeline[2].type == 'Resize'
    joined[0].pipeline = [dict(type='PackDetInputs')]
    with pytest.raises(ValueError, match=r'loads no image \(LoadImageFromFile\).*: PackDetInputs'):
        add_noise(cfg)


def test_table_by_hand():
    curve = NoiseCurve('model', 'c.py', 'c.pth', [0, 10, 20], [{'coco/AP': value} for value in (0.5, 0.4, 0.6)])
    assert curve.drops('coco/AP') == pytest.approx([0, 0.2, -0.2])
    assert '| model   |  0.5000 | 0.4000 (-20.0%) | 0.6000 (+20.0%) |' in noise_table([curve], 'coco/AP')
    zero = NoiseCurve('zero', '', '', [0, 10], [{'coco/AP': 0.0}, {'coco/AP': 0.0}])
    assert '0.0000 (n/a)' in noise_table([zero], 'coco/AP')


def test_sigmas_and_names():
    assert check_sigmas([20, 10]) == [0, 10, 20]
    with pytest.raises(ValueError, match='sigma nan'):
        check_sigmas([float('nan')])
    same = [('a.py', 'x.pth'), ('a.py', 'x.pth')]
    assert name_models(same) == ['a (x) #1', 'a (x) #2']

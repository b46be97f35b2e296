"""What ``make demo`` runs, on a handful of images and a few steps."""

import functools
import json

import cv2
import pytest

from mmscale import demo
from mmscale.datasets.generate import generate

TINY = [
    'train_cfg.max_epochs=1',
    'model.backbone.base_channels=8',
    'model.neck.in_channels=[8,16,32,64]',
    'model.test_cfg.score_thr=0.001',
]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, 'generate', functools.partial(generate, images_train=12, images_val=5))
    monkeypatch.setattr(demo, 'SCORE', 0.0)


def test_leaves_table_picture_and_results_and_reuses_them(small, tmp_path, capsys):
    arguments = ['--root', str(tmp_path / 'demo'), '--cfg-options', *TINY]
    demo.main(arguments)
    root = tmp_path / 'demo'
    results = json.loads((root / 'results.json').read_text())
    assert list(results) == ['FCOS-R18', 'FCOS-R18 + FINE']
    plain, fine = results.values()
    assert fine['params'] > plain['params'] and fine['macs'] > plain['macs']
    assert all(0 <= value <= 1 for result in results.values() for value in result['metrics'].values())
    lines = (root / 'table.md').read_text().splitlines()
    assert lines[0] == '| detector | AP | AP50 | AP_S | params (M) | GMACs | train (s) |' and len(lines) == 4
    picture = cv2.imread(str(root / 'detections.png'))
    assert picture.shape == (64 + 4 * (2 * 192 + 8), 3 * (2 * 192 + 8), 3)

    checkpoints = {path: path.stat().st_mtime_ns for path in root.rglob('epoch_*.pth')}
    assert len(checkpoints) == 2
    logs = [path.parents[2] for path in root.rglob('scalars.json') if '"loss"' in path.read_text()]
    assert sorted(logs) == sorted(path.parent for path in checkpoints), 'each run has a log of its own'
    capsys.readouterr()
    demo.main(arguments)
    assert capsys.readouterr().out.count('finished before') == 2
    assert {path: path.stat().st_mtime_ns for path in root.rglob('epoch_*.pth')} == checkpoints

    demo.main([*arguments, 'optim_wrapper.optimizer.lr=0.002'])  # other settings are another run
    assert capsys.readouterr().out.count('finished before') == 0
    assert len(list(root.rglob('epoch_*.pth'))) == 4

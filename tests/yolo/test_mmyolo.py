"""MMYOLO on the pinned stack: its import, and its own configs by MMEngine's runner; and what a command says without."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from math import isfinite

import pytest
from mmengine.runner import Runner

from mmscale.analysis.model import load_config
from mmscale.datasets.generate import CLASSES, generate
from mmscale.registry import HAS_MMYOLO
from mmscale.reproduce.dataset import resize_images

from ..trainings import own_process_state

needs_mmyolo = pytest.mark.skipif(not HAS_MMYOLO, reason='mmyolo, which the YOLOs stand on, is not installed')
CONFIGS = {
    'v5-s': 'yolov5/yolov5_s-v61_syncbn_fast_8xb16-300e_coco',
    'v6-s 3.0': 'yolov6/yolov6_v3_s_syncbn_fast_8xb32-300e_coco',
    'v8-n': 'yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco',
    'v8-s': 'yolov8/yolov8_s_syncbn_fast_8xb16-500e_coco',
}
SIZE = 96  # YOLOv6's first assigner needs nine positions at stride 32


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two images for training and two for validation, with an object each."""
    root = tmp_path_factory.mktemp('mmyolo') / 'data'
    generate(root, images_train=2, images_val=2, size=96, objects=(1, 1))
    return root


def python(code, *words):
    return subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code, *words], capture_output=True, text=True, timeout=300
    )


# A process of its own -------------------------------------------------------------------------------------------------

IMPORT = """
import sys, mmcv
number = mmcv.__version__
try:
    import mmyolo
except AssertionError as error:  # what the patch is for; when an mmyolo comes without it, the patch can go
    assert 'is used but incompatible' in str(error), error
else:
    raise SystemExit('mmyolo is imported without the patch')
for name in [name for name in sys.modules if name.split('.')[0] == 'mmyolo']:
    del sys.modules[name]
import mmscale
assert 'mmyolo' not in sys.modules, 'it is optional'
import mmyolo
assert mmyolo.__spec__.origin == mmyolo.__file__ and mmyolo.__path__
assert mmcv.__version__ == number == mmcv.version.__version__
import mmyolo.models
assert mmyolo.models.YOLODetector.__module__.startswith('mmyolo.models')
import importlib
assert importlib.reload(mmyolo) is mmyolo and mmcv.__version__ == number
print(mmyolo.__version__)
"""
BY_SCOPE = """
import sys, mmcv, mmscale
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
number = mmcv.__version__
init_default_scope('mmyolo')
neck = MODELS.build(dict(type='YOLOv8PAFPN', in_channels=[8, 8, 8], out_channels=[8, 8, 8]))
assert type(neck).__module__.startswith('mmyolo.models')
assert type(TRANSFORMS.build(dict(type='YOLOv5HSVRandomAug'))).__module__.startswith('mmyolo.datasets')
assert mmcv.__version__ == number
print(sys.modules['mmyolo'].__version__)
"""
ABSENT = """
import sys
sys.modules['mmyolo'] = None
from mmscale.engine.train import main
main(sys.argv[1:])
"""


@needs_mmyolo
@pytest.mark.parametrize('code', [IMPORT, BY_SCOPE], ids=['import', 'scope'])
def test_mmyolo_is_imported_past_its_check_of_mmcvs_number(code):
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == import_module('mmyolo').__version__


def test_without_mmyolo_a_command_says_so(repo, tmp_path):
    """Whose config names MMYOLO's detector. The components themselves: test_without_mmyolo.py."""
    words = [str(repo / 'configs' / 'yolo' / 'yolov8_n_8e_bccd.py'), '--work-dir', str(tmp_path)]
    done = python(ABSENT, *words)
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith('error: mmyolo, which ') and 'is not installed' in line and 'pip install' in line


# MMYOLO's own configs -------------------------------------------------------------------------------------------------


def without_albu(pipeline):
    return [step for step in pipeline if step.type != 'mmdet.Albu']


def on_small_data(name, data):
    """One of MMYOLO's configs for a single step on two images of 96x96; else as it is."""
    cfg = load_config(f'mmyolo::{CONFIGS[name]}.py')
    resize_images(cfg, (SIZE, SIZE))
    cfg.model.bbox_head.head_module.num_classes = len(CLASSES)
    for key in ('assigner', 'initial_assigner'):
        if key in cfg.model.get('train_cfg', {}):
            cfg.model.train_cfg[key].num_classes = len(CLASSES)
    cfg.model.test_cfg.score_thr = 0  # random weights
    for split in ('train', 'val', 'test'):
        folder = 'train' if split == 'train' else 'val'
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False, pin_memory=False)
        loader.dataset.update(
            data_root=f'{data}/',
            ann_file=f'annotations/{folder}.json',
            data_prefix=dict(img=f'{folder}/'),
            metainfo=dict(classes=CLASSES),
            serialize_data=False,
        )
        if loader.dataset.get('batch_shapes_cfg'):
            loader.dataset.batch_shapes_cfg.update(img_size=SIZE, batch_size=2)
        if split != 'train':
            cfg[f'{split}_evaluator'].ann_file = f'{data}/annotations/val.json'
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.train_cfg.pop('dynamic_intervals', None)
    cfg.default_hooks.checkpoint.update(interval=-1, save_best=None, save_last=False)
    cfg.default_hooks.param_scheduler.update(max_epochs=1, warmup_epochs=0, warmup_mim_iter=0)
    if find_spec('albumentations') is None:  # no part of the stack: it brings an OpenCV of its own; it blurs one in 100
        cfg.train_dataloader.dataset.pipeline = without_albu(cfg.train_dataloader.dataset.pipeline)
        for hook in cfg.custom_hooks:
            if 'switch_pipeline' in hook:
                hook.switch_pipeline = without_albu(hook.switch_pipeline)
    cfg.randomness = dict(seed=0)
    return cfg


@needs_mmyolo
@pytest.mark.parametrize('name', CONFIGS)
def test_mmyolos_own_configs_train_and_test(name, data, tmp_path):
    cfg = on_small_data(name, data)
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    assert type(runner.model).__module__.startswith('mmyolo')
    types = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert 'Mosaic' in types and cfg.train_dataloader.collate_fn.type == 'yolov5_collate'
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    runner.train()
    for key, log in runner.message_hub.log_scalars.items():
        if 'loss' in key:
            assert len(log.data[0]) == 1 and isfinite(log.current()) and log.current() >= 0
    assert runner.message_hub.get_scalar('train/loss').current() > 0
    moved = {key.split('.')[0] for key, value in runner.model.state_dict().items() if not value.equal(before[key])}
    assert moved == {'backbone', 'neck', 'bbox_head'}
    (average,) = (hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    assert average.ema_model.steps == 1
    assert runner.message_hub.get_scalar('val/coco/bbox_mAP').current() >= 0
    metrics = runner.test()
    assert 0 <= metrics['coco/bbox_mAP_50'] <= 1

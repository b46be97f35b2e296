"""A detector and a data set small enough to train in seconds, both written by the test itself."""
import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainings import forget_runs

CLASSES = ('square', 'bar')

CONFIG = """
    default_scope = 'mmdet'
    custom_imports = dict(imports=['mmscale'])
    data_root = {data!r}
    metainfo = dict(classes=('square', 'bar'))
    model = dict(
        type='FCOS',
        data_preprocessor=dict(type='DetDataPreprocessor', mean=[128.] * 3, std=[64.] * 3, pad_size_divisor=32),
        backbone=dict(type='ResNet', depth=18, base_channels=8, out_indices=(1, 2, 3), num_stages=4,
                      norm_cfg=dict(type='BN'), init_cfg=None),
        neck=dict(type='mmscale.FINEFPN', in_channels=[16, 32, 64], out_channels=16, num_outs=3),
        bbox_head=dict(
            type='FCOSHead', num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1, strides=[8, 16, 32],
            regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
            norm_cfg=dict(type='GN', num_groups=4, requires_grad=True)),
        test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.01, nms=dict(type='nms', iou_threshold=0.5),
                      max_per_img=20))
    train_pipeline = [
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
    test_pipeline = [
        dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
    train_dataloader = dict(
        batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(type='CocoDataset', data_root=data_root, ann_file='train.json', data_prefix=dict(img='images/'),
                     metainfo=metainfo, filter_cfg=dict(filter_empty_gt=True), pipeline=train_pipeline))
    val_dataloader = dict(
        batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='CocoDataset', data_root=data_root, ann_file='train.json', data_prefix=dict(img='images/'),
                     metainfo=metainfo, test_mode=True, pipeline=test_pipeline))
    test_dataloader = val_dataloader
    val_evaluator = dict(type='CocoMetric', ann_file=data_root + '/train.json', metric='bbox')
    test_evaluator = val_evaluator
    train_cfg = dict(type='EpochBasedTrainLoop', max_epochs={epochs}, val_interval=100)
    val_cfg = dict(type='ValLoop')
    test_cfg = dict(type='TestLoop')
    optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
    param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6),
                       dict(type='MultiStepLR', by_epoch=True, begin=0, end=10, milestones=[2])]
    default_hooks = dict(
        timer=dict(type='IterTimerHook'), logger=dict(type='LoggerHook', interval=1),
        param_scheduler=dict(type='ParamSchedulerHook'), checkpoint=dict(type='CheckpointHook', interval=1),
        sampler_seed=dict(type='DistSamplerSeedHook'), visualization=dict(type='DetVisualizationHook'))
    env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl'))
    vis_backends = [dict(type='LocalVisBackend')]
    visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
    log_processor = dict(type='LogProcessor', window_size=2, by_epoch=True)
    randomness = dict(seed=7)
    {extra}
"""


def fill_config(data: Path, epochs: int = 1, extra: str = '') -> str:
    """The tiny detector's config as text."""
    return textwrap.dedent(CONFIG).format(data=str(data), epochs=epochs, extra=textwrap.dedent(extra))


def draw_images(root: Path, number: int = 8, size: int = 64) -> None:
    """Write a COCO-format data set of bright squares and bars on noise."""
    generator = np.random.default_rng(0)
    (root / 'images').mkdir(parents=True)
    images, annotations = [], []
    for index in range(number):
        image = generator.integers(0, 80, (size, size, 3), dtype=np.uint8)
        for label, (width, height) in enumerate(((16, 16), (28, 10))):
            x, y = (int(v) for v in generator.integers(0, size - 28, 2))
            image[y:y + height, x:x + width] = 255 if label else (255, 0, 0)
            annotations.append(dict(id=len(annotations) + 1, image_id=index, category_id=label + 1, iscrowd=0,
                                    bbox=[x, y, width, height], area=width * height))
        Image.fromarray(image).save(root / 'images' / f'{index}.png')
        images.append(dict(id=index, file_name=f'{index}.png', width=size, height=size))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    (root / 'train.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


@pytest.fixture(scope='session')
def shapes(tmp_path_factory) -> Path:
    """The data set's folder."""
    root = tmp_path_factory.mktemp('shapes')
    draw_images(root / 'data')
    return root / 'data'


@pytest.fixture
def write_config(tmp_path, shapes):
    """A function that writes the tiny detector's config: ``write_config(epochs=2, extra='...')``."""

    def write(epochs: int = 1, extra: str = '', name: str = 'tiny.py') -> str:
        path = tmp_path / name
        path.write_text(fill_config(shapes, epochs, extra))
        return str(path)

    return write


@pytest.fixture(autouse=True)
def own_process_state(monkeypatch):
    """Leave no trace of a run in this process: mmengine keeps its scope, log and message hub in globals.

    One thread computes, here and in processes that a test starts: sums are then repeated to the last bit, and maps as
    small as these are slower in several.
    """
    from mmengine.registry import DefaultScope

    monkeypatch.delenv('LOCAL_RANK', raising=False)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    forget_runs()
    assert DefaultScope.get_current_instance() is None

"""YOLOv8, YOLOv10 and CSF-Net learn four real images by heart."""

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from torch import nn

from mmscale.analysis.model import build_model
from mmscale.datasets import VOCDataset
from mmscale.paths import config_root
from mmscale.registry import HAS_MMYOLO

from ..trainings import own_process_state

if not HAS_MMYOLO:
    pytest.skip('mmyolo, which the YOLOs stand on, is not installed', allow_module_level=True)

CLASSES = ('RBC', 'WBC', 'Platelets')
LOAD, RESIZE, BOXES, PACK = (
    dict(type='mmscale.LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=(128, 96), keep_ratio=False),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
)
TRAIN, TEST = [LOAD, BOXES, RESIZE, PACK], [LOAD, RESIZE, BOXES, PACK]  # boxes of the test in the image's own pixels


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


def four_images(root, pipeline, test_mode):
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = VOCDataset(
            data_root=str(root),
            ann_file='ImageSets/Main/train.txt',
            data_prefix=dict(sub_data_root=''),
            metainfo=dict(classes=CLASSES),
            pipeline=pipeline,
            test_mode=test_mode,
            indices=4,
        )
        return pseudo_collate([dataset[i] for i in range(4)])


def network(name):
    cfg = Config.fromfile(config_root() / '_base_' / 'models' / f'{name}.py')
    cfg.default_scope = 'mmyolo'
    if name == 'yolov10_s':
        for part in (cfg.model.backbone, cfg.model.neck, cfg.model.bbox_head.head_module):
            part.widen_factor = 0.25  # its n
        cfg.model.backbone.cib_stages = ()
    cfg.model.bbox_head.head_module.num_classes = cfg.model.train_cfg.assigner.num_classes = len(CLASSES)
    model = build_model(cfg)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # 0.03 is for longer trainings
    return model


@torch.no_grad()
def ap50(model, batch):
    """On the images themselves."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        evaluator = Evaluator(dict(type='mmscale.DetectionMetric', protocols=('coco',)))
    evaluator.dataset_meta = dict(classes=CLASSES)
    with DefaultScope.overwrite_default_scope('mmyolo'):
        evaluator.process(model.eval().test_step(batch), batch)
    model.train()
    return evaluator.evaluate(4)['coco/AP50']


@pytest.mark.parametrize('name', ['yolov8_n', 'csf-net_n', 'yolov10_s'])
def test_four_images_by_heart(name, bccd_root):
    """From random weights in 64 steps; YOLOv10 without NMS, by its one-to-one branch."""
    model = network(name)
    test, train = (four_images(bccd_root, pipeline, pipeline is TEST) for pipeline in (TEST, TRAIN))
    assert ap50(model, test) < 0.02
    optimizer, history = torch.optim.AdamW(model.parameters(), 2e-3), []
    for _ in range(64):
        optimizer.zero_grad()
        with DefaultScope.overwrite_default_scope('mmyolo'):
            batch = model.data_preprocessor(train, training=True)
            losses = model.loss(batch['inputs'], batch['data_samples'])
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for loss, first in history[0].items():
        assert history[-1][loss] < dict(cls=0.15, bbox=0.25, dfl=0.5)[loss.rpartition('_')[2]] * first, loss
    assert ap50(model, test) > 0.25
    others = [*test['inputs'][1:], test['inputs'][0]]
    assert ap50(model, dict(test, inputs=others)) < 0.1, 'it looks at the image; blindly 0.18 is reached'

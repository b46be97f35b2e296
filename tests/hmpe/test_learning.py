"""HMPE and its heatmaps learn on real images. The whole training, and what it reaches: docs/ablation_hmpe.md."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn

from mmscale.datasets import VOCDataset

from ..trainings import own_process_state
from . import small

CLASSES = ('RBC', 'WBC', 'Platelets')
PIPELINE = [
    dict(type='mmscale.LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='mmdet.Resize', scale=(128, 96), keep_ratio=False),
    dict(type='mmdet.PackDetInputs'),
]


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


def test_hmpe_learns_bccd_from_random_weights_in_one_epoch(repo, bccd_root, tmp_path):
    """160x128, 52 steps: AP50 above 0.05 (random weights: 0), every loss of the run a number, and they fall."""
    cfg = Config.fromfile(repo / 'configs' / 'hmpe' / 'hmpe_r18_12e_bccd.py')
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = 'hmpe'
    cfg.randomness = dict(seed=0)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.param_scheduler[0].update(end=10)
    cfg.param_scheduler[1].update(end=1, T_max=1)
    cfg.optim_wrapper.optimizer.lr = 0.001
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f'{bccd_root}/'
        loader.update(num_workers=0, persistent_workers=False)
        for step in loader.dataset.pipeline:
            if step['type'] == 'mmdet.Resize':
                step['scale'] = (160, 128)
    runner = Runner.from_cfg(cfg)
    runner.train()
    for name, share in dict(loss=0.85, loss_heatmap=0.92, loss_heat_cls=0.8, loss_heat_bbox=0.75).items():
        found = runner.message_hub.get_scalar(f'train/{name}').data[0].tolist()
        assert len(found) == 52 and all(math.isfinite(value) for value in found)
        assert sum(found[-10:]) < share * sum(found[:10]), name
    assert runner.message_hub.get_scalar('val/coco/AP50').current() > 0.05


def four_images(bccd_root):
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = VOCDataset(
            data_root=str(bccd_root),
            ann_file='ImageSets/Main/train.txt',
            data_prefix=dict(sub_data_root=''),
            metainfo=dict(classes=CLASSES),
            pipeline=PIPELINE,
        )
        return pseudo_collate([dataset[i] for i in range(4)])


@torch.no_grad()
def mean_heat(model, batch):
    """H_class and H_bbox as predicted at inference: per level the mean inside objects and outside."""
    supervision = model.train().heat(**batch)[1].supervision
    heat = model.eval().heat(batch['batch_inputs'])[1]
    model.train()
    return [
        [(x[:, 0][labels >= 0].mean().item(), x[:, 0][labels < 0].mean().item()) for x in maps]
        for *maps, labels in zip(heat.classes, heat.boxes, supervision.labels, strict=True)
    ]


@torch.no_grad()
def distance(model, batch):
    """Of the predicted maps to those of the gradients."""
    supervision = model.heat(**batch)[1].supervision
    pairs = zip(supervision.logits, supervision.targets, strict=True)
    return sum((x.sigmoid() - target).abs().mean().item() for x, target in pairs) / len(supervision.logits)


def test_predicted_maps_come_near_the_gradients_and_are_hot_where_objects_are(bccd_root):
    """Four images by heart, 80 steps; maps of the coarsest level, 3x4, have almost no outside."""
    with DefaultScope.overwrite_default_scope('mmscale'):
        model = small.detector(
            bbox_head__num_classes=len(CLASSES),
            dn_cfg=dict(group_cfg=dict(dynamic=True, num_dn_queries=10)),
        ).train()
    data = model.data_preprocessor(four_images(bccd_root), training=True)
    batch = dict(batch_inputs=data['inputs'], batch_data_samples=data['data_samples'])
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    start, history = distance(model, batch), []
    for step in range(80):
        torch.manual_seed(step)
        optimizer.zero_grad()
        losses = model.loss(**batch)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    first, last = history[0], history[-1]
    assert sum(last.values()) < 0.65 * sum(first.values())
    assert last['loss_heatmap'] < 0.8 * first['loss_heatmap']
    assert last['loss_heat_cls'] < 0.1 * first['loss_heat_cls']
    assert last['loss_heat_bbox'] < 0.2 * first['loss_heat_bbox']
    assert distance(model, batch) < 0.85 * start
    for level in mean_heat(model, batch)[:2]:
        for inside, outside in level:
            assert inside > outside + 0.05

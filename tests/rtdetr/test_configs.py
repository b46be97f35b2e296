"""RT-DETR's configs: the official numbers, and children that change what they say and nothing else."""

from functools import cache

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmscale.paths import config_root
from mmscale.reproduce.config import count_config, row_config
from mmscale.reproduce.spec import find
from mmscale.rtdetr.detector import strides_of

FOLDER = config_root() / 'rtdetr'
OFFICIAL = {
    # backbone widths, encoder width, feed-forward, expansion, layers, backbone's rate, frozen, M parameters, weights
    'r18': ([128, 256, 512], 256, 1024, 0.5, 3, 0.1, False, 20.184, 'ResNet18_vd_pretrained'),
    'r34': ([128, 256, 512], 256, 1024, 0.5, 4, 0.1, False, 31.442, 'ResNet34_vd_pretrained'),
    'r50': ([512, 1024, 2048], 256, 1024, 1.0, 6, 0.1, True, 42.945, 'ResNet50_vd_ssld_v2_pretrained'),
    'r101': ([512, 1024, 2048], 384, 2048, 1.0, 6, 0.01, True, 76.662, 'ResNet101_vd_ssld_pretrained'),
    'hgnetv2-l': ([512, 1024, 2048], 256, 1024, 1.0, 6, 0.05, True, 32.971, 'PPHGNetV2_L_ssld_pretrained'),
    'hgnetv2-x': ([512, 1024, 2048], 384, 2048, 1.0, 6, 0.01, True, 67.468, 'PPHGNetV2_X_ssld_pretrained'),
}


@cache
def load(name) -> Config:
    return Config.fromfile(FOLDER / f'{name}.py')


def build(cfg):
    """The model without weights: building a large one takes no time."""
    init_default_scope('mmdet')
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def flat(node, path=''):
    """Every value of a config by its dotted key."""
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in flat(value, f'{path}.{key}').items()}
    return {path[1:]: node}


def changed(first, second):
    """Keys in which two configs differ."""
    first, second = (flat(cfg.to_dict()) for cfg in (first, second))
    return {key for key in first.keys() | second.keys() if first.get(key, ...) != second.get(key, ...)}


@pytest.mark.parametrize('name', OFFICIAL)
def test_official_numbers(name):
    widths, width, feedforward, expansion, layers, rate, frozen, params, weights = OFFICIAL[name]
    cfg = load(f'rtdetr_{name}_8xb2-72e_coco')
    neck, backbone = cfg.model.neck, cfg.model.backbone
    assert (neck.in_channels, neck.out_channels, neck.expansion) == (widths, width, expansion)
    assert neck.aifi == dict(num_heads=8, feedforward_channels=feedforward)
    assert (cfg.model.decoder.num_layers, cfg.model.decoder.embed_dims) == (layers, 256)
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys == {'backbone': dict(lr_mult=rate)}
    assert (backbone.frozen_stages, backbone.norm_eval) == ((0, True) if frozen else (-1, False))
    assert backbone.norm_cfg == dict(type='BN', requires_grad=not frozen)
    place = 'https://github.com/lyuwenyu/storage/releases/download/v0.1/'
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=f'{place}{weights}_from_paddle.pth')
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (72, 2)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    model = build(cfg)
    assert model.backbone.out_channels == widths
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(params, abs=5e-4)
    trained = {key for key, p in model.backbone.named_parameters() if p.requires_grad}
    assert frozen == (not [key for key in trained if key.startswith('stem') or '.bn' in key])
    norms = [module for module in model.train().backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and all(norm.training != frozen for norm in norms)


def test_losses_and_matching_are_the_official_ones():
    model = build(load('rtdetr_r18_8xb2-72e_coco'))
    head = model.bbox_head
    assert (head.loss_cls.alpha, head.loss_cls.gamma, head.loss_cls.loss_weight) == (0.75, 2.0, 1.0)
    assert (head.loss_bbox.loss_weight, head.loss_iou.loss_weight) == (5.0, 2.0)
    focal, l1, giou = head.assigner.match_costs
    assert (focal.weight, focal.alpha, focal.gamma, l1.weight, giou.weight) == (2.0, 0.25, 2, 5.0, 2.0)
    assert (giou.iou_mode, l1.box_format) == ('giou', 'xywh')
    assert (model.num_queries, head.test_cfg.max_per_img) == (300, 300)
    noise = model.dn_query_generator
    assert (noise.label_noise_scale, noise.box_noise_scale, noise.num_dn_queries) == (0.5, 1.0, 100)


def test_the_short_form_is_the_long_one_but_for_its_length():
    short, long = load('rtdetr_r18_8xb2-1x_coco'), load('rtdetr_r18_8xb2-72e_coco')
    assert changed(short, long) == {'train_cfg.max_epochs', 'max_epochs'}
    assert short.train_cfg.max_epochs == 12


@pytest.mark.parametrize('data, classes', [('voc0712', 20), ('bccd', 3)])
def test_other_data_keep_the_recipe(data, classes):
    cfg, coco = load(f'rtdetr_r18_8xb2-72e_{data}'), load('rtdetr_r18_8xb2-72e_coco')
    model_and_recipe = ('model', 'optim_wrapper', 'train_cfg', 'auto_scale_lr', 'sync_bn', 'custom_hooks')
    different = {key for key in changed(cfg, coco) if key.startswith(model_and_recipe)}
    assert different == {'model.bbox_head.num_classes'}
    assert cfg.model.bbox_head.num_classes == classes
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        leaves = dataset.dataset.datasets if 'dataset' in dataset else [dataset]
        for leaf in leaves:
            assert leaf.pipeline == coco[f'{split}_dataloader'].dataset.pipeline
    assert cfg.train_dataloader.batch_size == 2 and cfg.train_dataloader.batch_sampler is None


def test_small_images_train_what_they_test():
    cfg = load('rtdetr_r18_12e_bccd')
    for split in ('train', 'val', 'test'):
        steps = cfg[f'{split}_dataloader'].dataset.pipeline
        resize = next(step for step in steps if step['type'] == 'mmdet.Resize')
        assert (resize['scale'], resize['keep_ratio']) == ((256, 192), False)
    assert cfg.model.backbone.init_cfg is None


def test_a_level_of_stride_4_is_one_entry_more():
    cfg, plain = load('rtdetr_r18_p2_8xb2-72e_coco'), load('rtdetr_r18_8xb2-72e_coco')
    assert changed(cfg, plain) == {'model.backbone.out_indices', 'model.neck.in_channels'}
    image = torch.zeros(1, 3, 64, 96, device='meta')
    for config, strides in ((cfg, [4, 8, 16, 32]), (plain, [8, 16, 32])):
        model = build(config).eval()
        maps = model.extract_feat(image)
        assert strides_of(maps, image) == strides
        assert model.decoder.num_levels == len(strides) == len(model.input_proj)
        assert model.pre_transformer(maps)['memory'].shape[1] == sum(64 * 96 // stride**2 for stride in strides)


@pytest.mark.parametrize('table', find('rtdetr'), ids=lambda table: table.key)
def test_every_row_builds(table):
    for row in table.rows:
        row_config(table, row)
        build(count_config(table, row))

"""HMPE's configs: they build, have their data's classes, train and predict; the recipe, and the paper's costs."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmscale.analysis.complexity import complexity
from mmscale.analysis.model import build_model
from mmscale.hmpe import HIDQ, HMPE, MOHFE, HMPEEncoder, LSConv
from mmscale.hmpe.hidq import SharedValueDecoder
from mmscale.paths import config_root
from mmscale.reproduce.dataset import resize_images
from mmscale.reproduce.pretrained import pretrained_files
from mmscale.rtdetr import RTDETR, RTDETRDecoder

from ..hsd_detr.test_configs import classes_of, leaves, rates
from ..rtdetr.test_configs import build, changed
from ..test_base_datasets import build_loader, lay_out
from ..trainings import own_process_state

FOLDER = config_root() / 'hmpe'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
LAYERS = {'bccd': 'bccd', 'nwpu-vhr10': 'nwpu_vhr10', 'voc0712': 'voc0712', 'small-objects': 'small_objects'}
LONG = [name for name in NAMES if '_100e_' in name]
GFLOPS = {0: 53.7, 1: 55.4, 2: 56.2, 3: 57.0}  # table 4, at 640x640 by 2 x MACs
MILLIONS = 19.3  # table 1: a file of 77.3 MB


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


@cache
def read(name) -> Config:
    return Config.fromfile(FOLDER / f'{name}.py')


def load(name) -> Config:
    """One of the configs, a copy."""
    init_default_scope('mmdet')
    return deepcopy(read(name))


def layer_of(name) -> str:
    return LAYERS[name.rpartition('e_')[2]]


def check_parts(model, whole):
    """Every part of the paper, or none."""
    assert isinstance(model, RTDETR) and isinstance(model, HMPE) == whole
    if not whole:
        assert type(model.decoder) is RTDETRDecoder and model.neck.aifi is not None
        return
    assert type(model.neck) is HMPEEncoder and isinstance(model.neck.mohfe, MOHFE) and model.neck.aifi is None
    snakes = [module for module in model.modules() if isinstance(module, LSConv)]
    assert [(module.kernel_size, module.channels) for module in snakes] == [(9, 32)] * 3
    assert isinstance(model.memory_proj, HIDQ) and isinstance(model.decoder, SharedValueDecoder)
    assert model.heatmap_head.num_classes == model.bbox_head.num_classes and model.heatmap_head.gate is not None
    assert (model.heatmap_head.heatmap, model.heatmap_head.tau) == ('predicted', 0.3)


@pytest.mark.parametrize('name', ['hmpe', 'rtdetr'])
def test_a_model_layer_builds(name):
    model = build(Config.fromfile(config_root() / '_base_' / 'models' / f'{name}_hgnetv2-b2.py'))
    check_parts(model, name == 'hmpe')
    assert model.neck.in_channels == model.backbone.out_channels == [384, 768, 1536]
    assert (model.num_queries, model.decoder.num_layers) == (300, 3)


@pytest.mark.parametrize('name', NAMES)
def test_a_config_has_its_datas_classes(name):
    cfg = load(name)
    data = Config.fromfile(config_root() / '_base_' / 'datasets' / f'{layer_of(name)}.py')
    expected = classes_of(leaves(data.train_dataloader['dataset'])[0])
    assert len(expected) == data.num_classes == cfg.model.bbox_head.num_classes
    for split in ('train', 'val', 'test'):
        theirs = leaves(data[f'{split}_dataloader']['dataset'])
        for leaf, other in zip(leaves(cfg[f'{split}_dataloader']['dataset']), theirs, strict=True):
            assert classes_of(leaf) == expected
            assert (leaf.ann_file, leaf.data_root) == (other.ann_file, other.data_root)
    assert cfg.test_evaluator == data.test_evaluator
    model = build(cfg)
    check_parts(model, name.startswith('hmpe'))
    assert model.bbox_head.cls_branches[-1].out_features == data.num_classes
    weights = [file.rpartition('/')[2] for file in pretrained_files(cfg)]
    assert weights == (['PPHGNetV2_B2_stage1.pth'] if name in LONG else [])


@pytest.mark.parametrize('name', NAMES)
def test_a_step_of_training_and_the_metrics(name, tmp_path, monkeypatch):
    """On two images of 64x64, one of them without objects at test time."""
    monkeypatch.chdir(tmp_path)
    cfg = load(name)
    resize_images(cfg, (64, 64))
    lay_out(layer_of(name), classes_of(leaves(cfg.train_dataloader.dataset)[0]))
    model = build_model(cfg).train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    losses = model.train_step(next(iter(build_loader(cfg.train_dataloader))), optimizer)
    assert losses['loss'] > 0 and all(loss.isfinite().all() for loss in losses.values())
    assert {'loss_heatmap', 'loss_heat_cls', 'loss_heat_bbox'} <= set(losses) or not name.startswith('hmpe')
    moved = {key.split('.')[0] for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert {'backbone', 'neck', 'decoder', 'bbox_head'} <= moved and ('heatmap_head' in moved) == (name[0] == 'h')
    model.eval()
    loader, evaluator = build_loader(cfg.test_dataloader), Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = loader.dataset.metainfo
    for batch in loader:
        evaluator.process(model.test_step(batch), batch)
    assert {'coco/AP', 'coco/AP50'} <= set(evaluator.evaluate(len(loader.dataset)))


@pytest.mark.parametrize('name', LONG)
def test_the_recipe_of_100_epochs(name):
    """RT-DETR's: a warm-up and a constant rate, a tenth of it for the ImageNet weights, an average of the weights."""
    cfg = load(name)
    assert cfg.train_cfg.max_epochs == 100
    (warmup,) = cfg.param_scheduler
    steps = {'bccd': 100, 'nwpu-vhr10': 300, 'voc0712': 2000}[name.rpartition('e_')[2]]
    assert (warmup.type, warmup.by_epoch, warmup.begin, warmup.end) == ('LinearLR', False, 0, steps)
    assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == ('AdamW', 1e-4)
    assert cfg.optim_wrapper.clip_grad.max_norm == 0.1
    (average,) = (hook for hook in cfg.custom_hooks if hook.type == 'EMAHook')
    assert (average.ema_type, average.momentum, average.update_buffers) == ('mmdet.ExpMomentumEMA', 0.0001, True)
    assert any(hook.type == 'mmscale.CheckDataHook' for hook in cfg.custom_hooks)
    assert (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (2, 16)
    for split in ('train', 'val', 'test'):
        for leaf in leaves(cfg[f'{split}_dataloader'].dataset):
            (resize,) = (step for step in leaf.pipeline if step.type == 'mmdet.Resize')
            assert (resize.scale, resize.keep_ratio) == ((640, 640), False)
    assert len(cfg.model.data_preprocessor.batch_augments[0].sizes) == 13
    assert cfg.train_dataloader.dataset.get('times', 1) == 1


@pytest.mark.parametrize('name', ['hmpe_hgnetv2-b2_100e_nwpu-vhr10', 'hmpe_r18_12e_bccd'])
def test_rates_and_decays_reach_the_optimizer(name):
    """A tenth for the backbone's ImageNet weights; no decay for norms and biases."""
    cfg = load(name)
    found = rates(cfg)
    slow = {key for key, rate in found.items() if rate == pytest.approx(0.1)}
    assert slow == {key for key in found if key.startswith('backbone.') and name in LONG}
    assert {rate for key, rate in found.items() if key not in slow} == {1.0}
    model = build(cfg)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    decays = {names[id(p)]: group['weight_decay'] for group in groups for p in group['params']}
    for key in ('neck.mohfe.norm.weight', 'memory_proj.norm.weight', 'neck.snakes.0.body.2.weight'):
        assert decays[key] == 0
    assert all(decays[key] == 0 for key in decays if key.endswith('.bias'))
    for key in ('heatmap_head.class_branch.0', 'neck.snakes.0.body.1.convs.x', 'decoder.value_proj'):
        assert decays[f'{key}.weight'] == 1e-4


def test_hmpe_is_its_baseline_but_for_its_parts():
    for data in ('nwpu-vhr10', 'voc0712'):
        keys = changed(load(f'hmpe_hgnetv2-b2_100e_{data}'), load(f'rtdetr_hgnetv2-b2_100e_{data}'))
        parts = ('model.type', 'model.hidq', 'model.heatmap_head.', 'model.neck.', 'model.bbox_head.type')
        assert {key for key in keys if not key.startswith(parts)} == set()
        assert not keys & {'model.neck.in_channels', 'model.neck.out_channels', 'model.neck.expansion'}
    small, plain = load('hmpe_r18_12e_bccd'), Config.fromfile(config_root() / 'rtdetr' / 'rtdetr_r18_12e_bccd.py')
    rest = {key for key in changed(small, plain) if not key.startswith(parts)}
    assert rest == {'train_cfg.val_interval'}, 'its curve is drawn epoch by epoch'


def with_depth(depth) -> Config:
    """As ``--cfg-options model.decoder.num_layers=...`` makes it."""
    cfg = load('hmpe_hgnetv2-b2_100e_nwpu-vhr10')
    cfg.merge_from_dict({'model.decoder.num_layers': depth, **({} if depth else {'model.dn_cfg': None})})
    return cfg


@cache
def cost(depth):
    return complexity(build_model(with_depth(depth)), 640)


@pytest.mark.parametrize('depth', GFLOPS)
def test_costs_by_depth_are_near_the_papers(depth):
    found = cost(depth)
    assert 2 * found.macs / 1e9 == pytest.approx(GFLOPS[depth], rel=0.05)
    assert found.unknown == {}, 'nothing that it leaves out'
    if depth == 3:
        assert found.params / 1e6 == pytest.approx(MILLIONS, rel=0.055)
        assert (round(2 * found.macs / 1e9, 2), round(found.params / 1e6, 3)) == (59.03, 18.338), 'as measured'


def test_the_first_layer_costs_more_than_each_further():
    """It brings the projection of the memory, which the others share: 1.7 and 0.8 GFLOPs in the paper."""
    gflops = [2 * cost(depth).macs / 1e9 for depth in GFLOPS]
    steps = [after - before for before, after in zip(gflops, gflops[1:], strict=False)]
    assert steps[0] == pytest.approx(1.9, abs=0.05)
    assert steps[1:] == pytest.approx([0.8, 0.8], abs=0.05) and steps[1] == pytest.approx(steps[2])


@pytest.mark.parametrize('depth', range(8))
def test_every_depth_of_table_4_builds(depth):
    model = build(with_depth(depth))
    assert len(model.decoder.layers) == depth and len(model.bbox_head.cls_branches) == depth + 1
    assert hasattr(model.decoder, 'value_proj') == bool(depth)

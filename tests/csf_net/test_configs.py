"""CSF-Net's configs: they build, train, and say what their comments say; and the cost that decided open choices."""

from copy import deepcopy
from dataclasses import replace

import pytest

from mmscale.registry import HAS_MMYOLO
from mmscale.reproduce.complexity import count
from mmscale.reproduce.config import row_config
from mmscale.reproduce.spec import find

from ..trainings import own_process_state

if not HAS_MMYOLO:
    pytest.skip('mmyolo, which CSF-Net stands on, is not installed', allow_module_level=True)

from mmyolo.models import YOLOv8CSPDarknet, YOLOv8PAFPN

from mmscale.csf_net.backbone import ConcatFuse, CSFBackbone
from mmscale.csf_net.neck import CSFPAFPN, CReToNeXt

from ..yolo.test_configs import (
    check_augmentation,
    check_classes,
    check_recipe,
    layer_of,
    load,
    names,
    parameters,
    skeleton,
    train_and_test_once,
)

NAMES = [*names('csf_net', '*.py'), *names('csf_net/table2', '*.py')]
LONG = [name for name in NAMES if '_80e_' in name]


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


@pytest.mark.parametrize('name', NAMES)
def test_a_configs_classes_agree_everywhere_and_it_runs(name):
    check_classes(load(name), layer_of(name))


@pytest.mark.parametrize('name', [name for name in NAMES if 'csf-net_n' in name])
def test_the_parts(name):
    model = skeleton(load(name))
    assert type(model.backbone) is CSFBackbone and type(model.neck) is CSFPAFPN
    assert [switch.quotas for switch in model.backbone.switches] == [[64, 128, 256]] * 3
    assert [switch.conv.kernel_size for switch in model.backbone.switches] == [(3, 3)] * 3
    assert len(model.backbone.early_fuses) == len(model.backbone.late_fuses) == 3
    (block,) = (module for module in model.neck.modules() if isinstance(module, CReToNeXt))
    assert len(block.blocks) == 2


@pytest.mark.parametrize('name', LONG)
def test_the_recipe(name):
    """Section 4.1: 640x640, AdamW, a cosine over 80 epochs with 3 of warm-up, the last 15 without mosaic and MixUp."""
    cfg = load(name)
    check_recipe(cfg, 80, 16 if name.endswith('bccd') else 32, last=15)
    check_augmentation(cfg, 0.5, 0.1, None)
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=0.001, betas=(0.937, 0.999), weight_decay=0.0005
    )
    hook = cfg.default_hooks.param_scheduler
    assert (hook.scheduler_type, hook.warmup_epochs, hook.warmup_bias_lr) == ('cosine', 3, 0.0)
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == 5
    assert cfg.train_dataloader.dataset.filter_cfg.filter_empty_gt is False


@pytest.mark.parametrize('name', NAMES)
def test_a_step_of_training_and_the_metrics(name, tmp_path, monkeypatch):
    train_and_test_once(name, tmp_path, monkeypatch)


def test_small_configs_differ_from_yolov8s_by_backbone_and_neck():
    for data in ('bccd', 'small-objects'):
        ours, plain = (deepcopy(load(f'{name}_8e_{data}')) for name in ('csf_net/csf-net_n', 'yolo/yolov8_n'))
        for cfg in (ours, plain):
            cfg.model.pop('backbone')
            cfg.model.neck.pop('type')
        assert ours.to_dict() == plain.to_dict()


@pytest.mark.parametrize(
    'name, backbone, neck, switches, fuse',
    [
        ('csf-net', CSFBackbone, CSFPAFPN, 3, 'DFuse'),
        ('no-cswitch', CSFBackbone, CSFPAFPN, 0, 'DFuse'),
        ('no-dfuse', CSFBackbone, CSFPAFPN, 3, 'ConcatFuse'),
        ('no-cretonext', CSFBackbone, YOLOv8PAFPN, 3, 'DFuse'),
        ('yolov8-n', YOLOv8CSPDarknet, YOLOv8PAFPN, None, None),
    ],
)
@pytest.mark.parametrize('key', ['table3', 'small-bccd', 'small-objects'])
def test_rows_leave_out_what_they_name(key, name, backbone, neck, switches, fuse):
    (table,) = find(f'csf_net/{key}')
    model = skeleton(row_config(table, table.row(name)))
    assert (type(model.backbone), type(model.neck)) == (backbone, neck)
    if switches is not None:
        assert len(model.backbone.switches) == len(model.backbone.early_fuses) == switches
        assert {type(part).__name__ for part in (*model.backbone.early_fuses, *model.backbone.late_fuses)} == {fuse}
    assert any(isinstance(module, ConcatFuse) for module in model.modules()) == (name == 'no-dfuse')


def test_the_cost_is_the_papers():
    """6.87 M weights and 18.25 GFLOPs, and that of its baseline, of whose figures only the operations fit."""
    (table,) = find('csf_net/table2')
    rows = tuple(table.row(name) for name in ('csf-net', 'yolov8-n'))
    ours, plain = count([replace(table, rows=rows)], jobs=1, progress=False)[table.name]
    assert ours.ours['params'] == pytest.approx(6.87, rel=0.005) and ours.error is None
    assert ours.ours['flops'] == pytest.approx(18.25, rel=0.01)
    assert plain.ours['flops'] == pytest.approx(8.06, rel=0.015)
    assert round(ours.result['params'] / 1e6, 3) == 6.848 and round(plain.result['params'] / 1e6, 3) == 3.011
    assert parameters('csf_net/csf-net_n_80e_micro-uav') == ours.result['params']

"""The figures that the paper prints. The counting conventions stand in docs/fine.md."""

from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

from mmscale.analysis.complexity import complexity

FINE_CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'fine'
TORCHVISION_CLASSES = {'model.bbox_head.num_classes': 91}  # what torchvision's one-stage detectors count


@cache
def count(name, size=800, options=()):
    cfg = Config.fromfile(FINE_CONFIGS / f'{name}_1x_coco.py')
    cfg.merge_from_dict(dict(options))
    return complexity(cfg, (size, size))


@pytest.mark.parametrize(
    'detector, options, params, gmacs',
    [
        # table 1: parameters in M and "FLOPs" (multiply-adds) in G at 800x800, without and with FINE
        ('faster-rcnn', {}, (41.8, 42.8), (134.4, 135.5)),
        ('retinanet', TORCHVISION_CLASSES, (34.0, 35.0), (151.5, 152.9)),
        ('fcos', TORCHVISION_CLASSES, (32.3, 33.3), (128.2, 129.6)),
    ],
)
def test_table_1(detector, options, params, gmacs):
    for variant, expected_params, expected_gmacs in zip(('', '-fine'), params, gmacs, strict=True):
        cost = count(f'{detector}_r50_fpn{variant}', options=tuple(options.items()))
        assert cost.params / 1e6 == pytest.approx(expected_params, abs=0.06)
        assert cost.macs / 1e9 == pytest.approx(expected_gmacs, rel=0.01)


def test_table_7_mask_rcnn():
    """Parameters; its "FLOPs" are those of Faster R-CNN, the mask branch is not in them."""
    for variant, expected in (('', 44.4), ('-fine', 45.5)):
        assert count(f'mask-rcnn_r50_fpn{variant}').params / 1e6 == pytest.approx(expected, abs=0.06)


def test_two_modules_are_8_c_squared_each_and_their_biases():
    added = count('faster-rcnn_r50_fpn-fine').params - count('faster-rcnn_r50_fpn').params
    assert added == 2 * (8 * 256**2 + 8 * 256) == 1_052_672


def test_depthwise_sampling_adds_6144_weights_and_2_46_mmacs_at_640():
    """Table 6."""
    plain = count('retinanet_r50_fpn-fine', 640)
    depthwise = count('retinanet_r50_fpn-fine', 640, (('model.neck.fine', dict(down='dwconv')),))
    assert depthwise.params - plain.params == 6144
    pooling = {name: kind['macs'] for name, kind in plain.by_kind.items() if 'pool' in name}
    assert depthwise.by_kind['conv']['macs'] - plain.by_kind['conv']['macs'] == pytest.approx(2.46e6, rel=0.003), pooling


def added_macs(**neck):
    options = tuple((f'model.neck.{key.replace("__", ".")}', value) for key, value in neck.items())
    return (count('faster-rcnn_r50_fpn-fine', options=options).macs - count('faster-rcnn_r50_fpn').macs) / 1e9


def test_figure_5_orders_ratio_and_kernel():
    """The paper: +19.3 (r 1, k 1), +2.5 (1, 2), +1.9 (4, 1), +0.6 (4, 2), +1.1 as reported with k = 1 and 2."""
    grid = {(r, k): added_macs(fine__ratio=r, fine_kernels=[k, k]) for r in (1, 2, 4) for k in (1, 2)}
    for kernel in (1, 2):
        assert grid[1, kernel] > grid[2, kernel] > grid[4, kernel] > 0
    for ratio in (1, 2, 4):
        assert grid[ratio, 1] > grid[ratio, 2]
    assert grid[1, 1] > 7 * grid[1, 2] and grid[1, 1] == pytest.approx(19.3, rel=0.1)
    assert grid[4, 1] == pytest.approx(1.9, rel=0.1)
    assert added_macs() == pytest.approx(1.1, abs=0.06)
    parameters = {
        count('faster-rcnn_r50_fpn-fine', options=(('model.neck.fine.ratio', r), ('model.neck.fine_kernels', (k, k)))).params
        for r, k in ((1, 1), (4, 2))
    }
    assert len(parameters) == 1, 'sampling has no weights'


def test_table_4_heads_change_neither_weights_nor_cost():
    costs = {
        (cost.params, cost.macs)
        for cost in (
            count('faster-rcnn_r50_fpn-fine', options=(('model.neck.fine.num_heads', h),)) for h in (1, 4, 8, 16, 32, 64, 128)
        )
    }
    assert len(costs) == 1

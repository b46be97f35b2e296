"""The figures that the paper prints. The counting conventions stand in docs/fine.md."""

from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmscale.analysis.complexity import complexity
from mmscale.analysis.model import build_model
from mmscale.fine import FINE

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'fine'


@pytest.mark.parametrize(
    'detector, classes, params, gmacs',
    [
        # parameters in M, "FLOPs" (multiply-adds) in G at 800x800, without and with FINE; torchvision counts 91 classes
        ('faster-rcnn', None, (41.8, 42.8), (134.4, 135.5)),
        ('retinanet', 91, (34.0, 35.0), (151.5, 152.9)),
        ('fcos', 91, (32.3, 33.3), (128.2, 129.6)),
    ],
)
def test_table_1(detector, classes, params, gmacs):
    for variant, expected_params, expected_gmacs in zip(('', '-fine'), params, gmacs, strict=True):
        cfg = Config.fromfile(CONFIGS / f'{detector}_r50_fpn{variant}_1x_coco.py')
        if classes:
            cfg.model.bbox_head.num_classes = classes
        cost = complexity(cfg, (800, 800))
        assert cost.params / 1e6 == pytest.approx(expected_params, rel=0.005)
        assert cost.macs / 1e9 == pytest.approx(expected_gmacs, rel=0.005)


def test_table_7_mask_rcnn():
    """Parameters alone: the paper's "FLOPs" of this row are Faster R-CNN's, without the mask branch."""
    for variant, expected in (('', 44.4), ('-fine', 45.5)):
        model = build_model(Config.fromfile(CONFIGS / f'mask-rcnn_r50_fpn{variant}_1x_coco.py'))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(expected, abs=0.06)


@cache
def added(size=800, kernels=(1, 2), ratio=2, **options):
    """Parameters and multiply-adds of the two FINE modules in a detector, for a square image."""
    costs = []
    for kernel, stride in zip(kernels, (16, 8), strict=True):
        low, high = (torch.zeros(1, 256, size // s, size // s) for s in (stride, 2 * stride))
        module = FINE(256, kernel=kernel, ratio=ratio, **options).eval()
        costs.append(complexity(module, inputs=(low, high)))
    return sum(cost.params for cost in costs), sum(cost.macs for cost in costs)


def test_two_modules_are_8_c_squared_each_and_their_biases():
    assert added()[0] == 2 * (8 * 256**2 + 8 * 256) == 1_052_672


def test_rt_detrs_difference():
    """Tables 1 and 3: +1.2 GFLOPs, 2 x multiply-adds, at 640x640."""
    assert 2 * added(640)[1] / 1e9 == pytest.approx(1.2, abs=0.05)


def test_depthwise_sampling():
    """Table 6: +6.14 K weights, 2.46 M multiply-adds at 640x640."""
    plain, depthwise = added(640), added(640, down='dwconv')
    assert depthwise[0] - plain[0] == 6144
    assert depthwise[1] - plain[1] == pytest.approx(2.46e6, rel=0.003)


def test_figure_5_orders_ratio_and_kernel():
    """The paper, in GMACs at 800x800: +19.3 (r 1, k 1), +2.5 (1, 2), +1.9 (4, 1), +0.6 (4, 2)."""
    params, macs = zip(*(added(kernels=(k, k), ratio=r) for r in (1, 2, 4) for k in (1, 2)), strict=True)
    assert len(set(params)) == 1, 'pooling has no weights'
    gmacs = {(r, k): macs[2 * i + k - 1] / 1e9 for i, r in enumerate((1, 2, 4)) for k in (1, 2)}
    for kernel in (1, 2):
        assert gmacs[1, kernel] > gmacs[2, kernel] > gmacs[4, kernel] > 0
    # (1, 2) and (4, 1) sample the same numbers of tokens on swapped sides; the paper prints a little more for the first
    assert gmacs[1, 1] > gmacs[1, 2] == pytest.approx(gmacs[4, 1], rel=1e-3) and gmacs[4, 1] > gmacs[4, 2]
    assert gmacs[1, 1] == pytest.approx(19.3, rel=0.1)
    assert gmacs[4, 1] == pytest.approx(1.9, rel=0.1)


def test_vanilla_attention_costs_what_makes_sampling_worthwhile():
    """Table 3 at 640x640: AATS saves 93.3 % of vanilla attention's cost."""
    vanilla, sampled = added(640, kernels=(1, 1), ratio=1)[1], added(640)[1]
    assert 1 - sampled / vanilla == pytest.approx(0.933, abs=0.01)


def test_table_4_heads_change_neither_weights_nor_cost():
    assert len({added(num_heads=h) for h in (1, 4, 8, 16, 32, 64, 128)}) == 1

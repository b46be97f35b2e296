"""FINE's table 2: parameters (M) and operations (G) of Faster R-CNN R50 and RT-DETR R18 with each method in the neck.

The neck alone is counted on maps of the detector's sizes; the rest of the detector is the baseline's, which
tests/fine/test_numbers.py and docs/analysis.md have as 41.753 M and 134.621 G.
"""

from functools import cache

import pytest
import torch
from mmdet.models.necks import FPN
from mmengine.registry import init_default_scope

from mmscale.analysis.complexity import complexity
from mmscale.registry import MODELS
from mmscale.rivals import MGCFPN, SNIFPN, AdaFPN, FaPN
from mmscale.rtdetr import HybridEncoder

from .pyramid import TABLE_2_FAPN

BASELINE = 41.753, 134.621
R50, R18 = (256, 512, 1024, 2048), (128, 256, 512)
RT_DETR_OPTIONS = {'FaPN': {**TABLE_2_FAPN, 'align_levels': [0, 1], 'select_levels': [0, 1, 2]}}


@cache
def cost(build, widths=R50, size=800):
    init_default_scope('mmdet')
    cls, options = build() if not isinstance(build, type) else (build, {})
    neck = cls(in_channels=list(widths), out_channels=256, num_outs=len(widths), **options)
    strides = [32 >> i for i in reversed(range(len(widths)))]
    maps = [torch.zeros(1, c, size // s, size // s) for c, s in zip(widths, strides, strict=True)]
    counted = complexity(neck, inputs=(maps,))
    assert counted.unknown == {}
    return counted


def table_2_fapn():
    return FaPN, TABLE_2_FAPN


@pytest.mark.parametrize(
    'build, params, gmacs, trainable',
    [
        (SNIFPN, 41.8, 134.4, None),
        (table_2_fapn, 48.5, 143.6, 48.52),
        (AdaFPN, 45.6, 159.4, 45.58),
        (MGCFPN, 44.4, 161.8, 44.37),
    ],
)
def test_table_2_on_faster_rcnn(build, params, gmacs, trainable):
    """The table's figures, and the trainable parameters that its authors' logs print: the table leaves out the frozen
    0.225 M of the backbone in all rows but SNI's and the baseline's."""
    fpn, ours = cost(FPN), cost(build)
    added = (ours.params - fpn.params) / 1e6
    assert BASELINE[0] + added == pytest.approx(params, rel=0.006)
    assert BASELINE[1] + (ours.macs - fpn.macs) / 1e9 == pytest.approx(gmacs, rel=0.002)
    if trainable:
        assert BASELINE[0] - 0.2253 + added == pytest.approx(trainable, abs=0.01)


def test_sni_is_free():
    assert (cost(SNIFPN).params, cost(SNIFPN).macs) == (cost(FPN).params, cost(FPN).macs)


def test_fapn_of_its_own_paper_is_another_size():
    """Three full alignments instead of two grouped ones: +5.03 M and, with the one at stride 4, +64.5 G."""
    selection = sum(c * c for c in R50[:3])
    alignment = 2 * 256 * 256 + (256 * 9 + 1) * 216 + 256 * 256 * 9 + 256
    assert cost(FaPN, size=160).params - cost(FPN, size=160).params == selection + 3 * alignment
    # on a 25th of the pixels: MMCV's kernel is slow on a CPU, and the map of stride 4 is large
    assert 25 * (cost(FaPN, size=160).macs - cost(FPN, size=160).macs) / 1e9 == pytest.approx(64.5, abs=0.1)


def test_adafpn_blocks():
    block = (
        (512 + 1) * 256  # from both levels
        + (256 * 9 + 1) * 8  # x and y of four points
        + (256 + 1) * 256  # the features that are sampled
        + (512 * 9 + 1) * 256
        + (256 * 9 + 1) * 256
        + (256 * 9 + 1) * 16
        + (16 * 9 + 1) * 2
    )
    assert block == 2_022_714
    assert cost(AdaFPN).params - cost(FPN).params == 2 * block


def test_mgc_parts():
    contexts = (256, 192, 128, 64)
    entities = sum(c * n for c, n in zip(R50, contexts, strict=True))
    embeddings_and_queries = 2 * sum(R50) * 256
    reasoning = 5 * ((256 + 1) * 64 + (64 + 1) * 64 + (64 + 1) * 256)
    added = entities + embeddings_and_queries + 4 * 256 * 256 + reasoning
    assert cost(MGCFPN).params - cost(FPN).params == added


@cache
def encoder_cost(method='', size=640):
    encoder = MODELS.build(
        dict(type=f'mmscale.{method}HybridEncoder', in_channels=R18, expansion=0.5, **RT_DETR_OPTIONS.get(method, {}))
    )
    maps = [torch.zeros(1, c, size // s, size // s) for c, s in zip(R18, (8, 16, 32), strict=True)]
    counted = complexity(encoder, inputs=(maps,))
    assert counted.unknown == {}
    return counted


@pytest.mark.parametrize(
    'method, params, gflops, logged_params, logged_gmacs',
    [
        ('SNI', 20.2, 61.7, None, None),
        ('FaPN', 21.9, 71.8, 21.936, 35.895),
        ('AdaFPN', 22.9, 82.8, 22.914, 41.421),
        ('MGC', 21.1, 68.7, 21.135, 34.351),
    ],
)
def test_table_2_on_rt_detr(method, params, gflops, logged_params, logged_gmacs):
    """640x640, 2 x multiply-adds. The encoder alone is counted; the rest of the detector is the baseline's, which
    tests/fine/test_numbers.py has as 20.184 M and 61.73 GFLOPs. Its authors' logs print one digit more."""
    plain, ours = encoder_cost(), encoder_cost(method)
    ours_params = 20.184 + (ours.params - plain.params) / 1e6
    ours_gflops = 61.73 + 2 * (ours.macs - plain.macs) / 1e9
    assert ours_params == pytest.approx(params, abs=0.05)
    assert ours_gflops == pytest.approx(gflops, rel=0.02)
    if logged_params:
        assert ours_params == pytest.approx(logged_params, abs=0.002), '1,536 weights of batch norms in two of them'
        assert ours_gflops / 2 == pytest.approx(logged_gmacs, rel=0.02)


def test_fapns_difference_on_rt_detr_is_dcnv2():
    """The log has no operations for DCNv2: 3x3, 256 to 256 in 8 groups, on 80x80 and 40x40."""
    dcn = 9 * 256 * 256 / 8 * (80 * 80 + 40 * 40)
    ours = 61.73 / 2 + (encoder_cost('FaPN').macs - encoder_cost().macs) / 1e9
    assert ours - dcn / 1e9 == pytest.approx(35.895, rel=0.003)


def test_adafpn_takes_csp_blocks_out_of_rt_detr():
    csp = sum(p.numel() for p in HybridEncoder(R18, expansion=0.5).top_down_blocks.parameters())
    assert encoder_cost('AdaFPN').params - encoder_cost().params == 2 * 2_022_714 - csp

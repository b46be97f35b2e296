"""The backbone: its data flow, its forms, and what HSD-DETR costs."""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

from mmscale.analysis.complexity import complexity
from mmscale.hsd_detr import SS2D, HCSSFusion, HCSSNet, ReparamDownsample, SPDMixer, hcss_net
from mmscale.layers import MobileOneBlock, reparameterize

from ..layers.test_reparam import stirred
from ..test_contract import neck, sample
from . import literal
from .test_ss2d import ALL, assert_same, count, results, weighed, weights

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'hsd_detr'
ARCH = dict(widths=(8, 12, 16, 20), depths=(1, 2, 1, 1))
FUSION = dict(ss2d=dict(state_channels=3, head_channels=4))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    init_default_scope('mmdet')


def small(**options):
    return HCSSNet(**{**dict(arch=ARCH, fusion=FUSION), **options})


def image(batch=2, size=(64, 96), **options):
    return torch.randn(batch, 3, *size, **options)


# Data flow ------------------------------------------------------------------------------------------------------------


def test_a_block_is_its_literal_form():
    block = stirred(small()).stages[1][1].double()
    for scan in (block.fusion.ss2d,):
        nn.init.uniform_(scan.step_bias, -2.0, 0.5)
        nn.init.uniform_(scan.log_rate, -2.0, 0.0)
    x = torch.randn(2, 12, 3, 4, dtype=torch.float64)
    for training in (False, True):
        block.train(training)
        expected = results(lambda x: literal.hcss_block(weights(block), x, ALL, 3, training), block, x)  # noqa: B023
        assert_same(results(block, block, x), expected, 1e-6)


def test_stem_stages_and_what_stands_between():
    backbone, x = stirred(small(out_indices=(0, 1, 2, 3))), image()
    outs = backbone(x)
    x = backbone.stem(x)
    assert isinstance(backbone.stem, SPDMixer)
    for i, (stage, out) in enumerate(zip(backbone.stages, outs, strict=True)):
        first, *blocks = stage
        assert len(blocks) == ARCH['depths'][i]
        if i:
            assert isinstance(first, ReparamDownsample)
            x = first.pointwise(first.depthwise(x))
        for block in blocks:
            x = x + block.fusion(block.norm(x))
            x = x + block.feedforward(x)
        torch.testing.assert_close(out, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('stem', ['spd_mixer', 'conv'])
@pytest.mark.parametrize('size', [(1, 1), (31, 33), (64, 96), (65, 97), (70, 45)], ids=str)
def test_strides_4_to_32_of_any_size(size, stem):
    """Sides are rounded up, whichever the stem; the maps of both have the same sizes."""
    outs = small(stem=stem, out_indices=(0, 1, 2, 3)).eval()(image(1, size))
    strides = [4, 8, 16, 32]
    expected = [(1, c, *(-(-side // s) for side in size)) for c, s in zip(ARCH['widths'], strides, strict=True)]
    assert [tuple(out.shape) for out in outs] == expected
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize('out_indices', [(0,), (3,), (0, 2), (1, 2, 3), (0, 1, 2, 3)], ids=str)
def test_out_indices(out_indices):
    backbone, x = stirred(small(out_indices=out_indices)), image()
    everything = small(out_indices=(0, 1, 2, 3)).eval()
    everything.load_state_dict(backbone.state_dict(), strict=False)  # it may have more stages
    outs, expected = backbone(x), everything(x)
    assert isinstance(outs, tuple) and len(outs) == len(out_indices)
    assert all(out.equal(expected[i]) for out, i in zip(outs, out_indices, strict=True))
    assert backbone.out_channels == [out.shape[1] for out in outs]


@pytest.mark.parametrize('out_indices', [(0,), (1,), (0, 2), (1, 2, 3)], ids=str)
def test_stages_that_nothing_asks_for_are_not_built(out_indices):
    """Their weights would have no gradient, and several processes would wait for it."""
    backbone = small(out_indices=out_indices).train()
    assert len(backbone.stages) == out_indices[-1] + 1
    sum(out.square().mean() for out in backbone(image())).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_computed_again_behind_a_frozen_stem(monkeypatch):
    """The first trained block gets maps that need no gradient."""
    calls = []
    monkeypatch.setattr(hcss_net, 'checkpoint', lambda run, x, use_reentrant: calls.append(run) or run(x))
    backbone = small(with_cp=True, frozen_stages=0).train()
    backbone(image())
    blocks = [m for m in backbone.modules() if isinstance(m, hcss_net.HCSSBlock)]
    assert len(calls) == len(blocks) > 3
    with torch.no_grad():
        backbone(image())
    assert len(calls) == len(blocks), 'nothing to compute again'


@pytest.mark.parametrize(
    'arch, widths, depths',
    [
        ('tiny', [32, 64, 128, 256], [1, 1, 2, 1]),
        ('small', [48, 96, 192, 384], [1, 2, 4, 2]),
        ('base', [64, 128, 256, 512], [2, 2, 6, 2]),
    ],
)
def test_the_three_sizes(arch, widths, depths):
    backbone = HCSSNet(arch, out_indices=(0, 1, 2, 3))
    assert backbone.out_channels == widths and [len(stage) - 1 for stage in backbone.stages] == depths
    assert [s[1].fusion.ss2d.num_heads for s in backbone.stages] == [2 * w // 32 for w in widths]
    assert HCSSNet().widths == (48, 96, 192, 384), 'small is the default'


def test_parameters_by_hand():
    """Tiny: 32, 64, 128, 256 channels; a scan with 16 states, heads of 32, four directions."""

    def mobile_one(c_in, c_out, kernel, groups=1):  # a branch with the kernel, one of 1x1, one without a kernel
        branch = (c_in // groups) * c_out * kernel**2 + 2 * c_out
        scale = (c_in // groups) * c_out + 2 * c_out if kernel > 1 else 0
        return branch + scale

    def down(c_in, c_out):
        return mobile_one(c_in, c_in, 3, c_in) + mobile_one(c_in, c_out, 1) + (2 * c_out if c_in == c_out else 0)

    def block(c):
        inner, heads = 2 * c, 2 * c // 32
        scan = 4 * inner * (32 + heads) + 2 * 4 * heads + heads
        ss2d = (c * inner + inner) + (9 * inner + inner) + scan + inner + (inner * c + c)
        fusion = (9 * c + 2 * c) + ss2d + (2 * 2 * 49 + 2) + 2 * (c * c + 2 * c)
        feedforward = c * 2 * c + 2 * 2 * c + 2 * c * c + 2 * c
        return 2 * c + fusion + feedforward

    by_hand = mobile_one(12, 32, 3) + down(32, 32) + block(32)
    by_hand += down(32, 64) + block(64) + down(64, 128) + 2 * block(128) + down(128, 256) + block(256)
    assert count(HCSSNet('tiny')) == by_hand == 1324724


def test_a_batch_of_two_is_two_of_one():
    backbone, x = stirred(small()), image()
    apart = [torch.cat(maps) for maps in zip(backbone(x[:1]), backbone(x[1:]), strict=True)]
    for a, b in zip(backbone(x), apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('stem', ['spd_mixer', 'conv'])
def test_every_parameter_gets_a_gradient(stem):
    backbone = small(stem=stem)
    sum(weighed(out) for out in backbone(image())).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_computed_again_in_the_backward_pass(monkeypatch):
    """The same gradients, and every block runs twice."""
    plain, again = small(), small(with_cp=True)
    again.load_state_dict(plain.state_dict())
    calls, forward = [], HCSSFusion.forward
    monkeypatch.setattr(HCSSFusion, 'forward', lambda self, x: calls.append(self) or forward(self, x))
    runs, batch = [], image()
    for backbone in (plain, again):
        calls.clear()
        x = batch.clone().requires_grad_()
        sum(weighed(out) for out in backbone(x)).backward()
        runs.append((len(calls), {name: p.grad for name, p in backbone.named_parameters()}, x.grad))
    assert [run[0] for run in runs] == [5, 10]
    for name, gradient in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][name], gradient, msg=lambda m, n=name: f'{n}: {m}')
    torch.testing.assert_close(runs[1][2], runs[0][2])


@pytest.mark.parametrize('frozen', [-1, 0, 1, 4])
def test_frozen_stages(frozen):
    """The stem and as many stages: no gradients, and norms that keep their statistics."""
    backbone = small(frozen_stages=frozen)
    backbone.init_weights()
    assert backbone.train() is backbone and backbone.training
    before = copy.deepcopy(backbone.state_dict())
    outs = backbone(image())
    if frozen < 4:
        sum(out.sum() for out in outs).backward()
    stuck = tuple(['stem.'] * (frozen >= 0) + [f'stages.{i}.' for i in range(frozen)])
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (not name.startswith(stuck)), name
    changed = {name for name, x in backbone.state_dict().items() if not x.equal(before[name])}
    statistics = {name for name in before if 'running_' in name or 'num_batches' in name}
    assert changed == {name for name in statistics if not name.startswith(stuck)}


def test_norms_that_keep_their_statistics():
    backbone = small(norm_eval=True).train()
    before = copy.deepcopy(backbone.state_dict())
    sum(out.sum() for out in backbone(image())).backward()
    assert backbone.stages[0][1].fusion.training
    assert all(x.equal(before[name]) for name, x in backbone.state_dict().items())
    assert all(p.grad is not None for p in backbone.parameters())
    assert not small(norm_eval=True).eval().training


def test_drop_path_grows_from_nothing():
    backbone = small(drop_path_rate=0.4)
    rates = [m.drop_prob for m in backbone.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert {m.drop_prob for m in small().modules() if isinstance(m, DropPath)} == {0.0}


def test_dropped_paths_leave_the_map_as_it_is():
    """An image passes the block unchanged, by one of its parts or by both; in evaluation none does."""
    backbone = small(drop_path_rate=0.5)
    block = stirred(backbone).stages[3][1]
    x = torch.randn(64, 20, 2, 2)
    expected = block(x)
    block.drop_path.train()  # norms by their statistics, so that images are independent
    out = block(x)
    first = x + block.fusion(block.norm(x)) * 2
    options = [x, x + block.feedforward(x) * 2, first, first + block.feedforward(first) * 2]
    matches = torch.stack([(out - option).abs().amax((1, 2, 3)) < 1e-4 for option in options])
    assert (matches.sum(0) == 1).all() and (matches.sum(1) > 4).all()
    block.eval()
    torch.testing.assert_close(block(x), expected)


def test_initialisation():
    """PyTorch's own for convolutions, in the blocks as in a stem of either kind; Mamba's for the scans."""
    for stem in ('spd_mixer', 'conv'):
        backbone = small(stem=stem)
        for parameter in backbone.parameters():
            parameter.data.fill_(0.5)
        scans = [m for m in backbone.modules() if isinstance(m, SS2D)]
        for scan in scans:
            scan._init_scan()
        backbone.init_weights()
        for scan in scans:
            steps, rates = nn.functional.softplus(scan.step_bias), scan.log_rate.exp()
            assert ((steps > 0.00099) & (steps < 0.101)).all() and ((rates >= 1) & (rates <= 16)).all()
        for name, m in backbone.named_modules():
            if isinstance(m, nn.Conv2d):
                bound = m.weight[0].numel() ** -0.5
                assert 0.3 * bound < m.weight.abs().max() <= bound, name
                assert m.bias is None or m.bias.abs().max() <= bound, name


# Forms ----------------------------------------------------------------------------------------------------------------


def test_re_parameterised_is_the_same():
    backbone, x = stirred(small(out_indices=(0, 1, 2, 3))), image()
    folded = reparameterize(backbone)
    again = reparameterize(folded)
    for a, b, c in zip(backbone(x), folded(x), again(x), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5 * a.abs().max().item())
        torch.testing.assert_close(c, a, rtol=1e-4, atol=1e-5 * a.abs().max().item())
    assert not any(isinstance(m, MobileOneBlock) for m in folded.modules())
    assert count(folded) < count(backbone)


def test_options_reach_every_part():
    groups = dict(type='GN', num_groups=2)
    backbone = small(norm_cfg=groups, act_cfg=dict(type='GELU'), feedforward_ratio=1.5, stem='conv')
    leaves = [type(m) for m in backbone.modules() if not list(m.children())]
    assert nn.BatchNorm2d not in leaves and leaves.count(nn.GroupNorm) > 30
    assert leaves.count(nn.SiLU) == 5, 'of the scans alone'
    assert leaves.count(nn.GELU) == 3 + 5 + 3 * 2
    assert [s[1].feedforward[0].out_channels for s in backbone.stages] == [12, 18, 24, 30]
    backbone = small(fusion=dict(kernel_size=5, ss2d=dict(head_channels=2)), stem=dict(num_branches=2))
    assert (
        backbone.stages[2][1].fusion.local.kernel_size == (5, 5) and backbone.stages[2][1].fusion.ss2d.num_heads == 16
    )
    assert len(backbone.stem.embed.convs) == 2 and isinstance(backbone.stem.embed.act, nn.SiLU)
    assert isinstance(small(stem=dict(act_cfg=dict(type='ReLU'))).stem.embed.act, nn.ReLU)


def test_without_memory():
    with torch.device('meta'):
        assert count(HCSSNet('tiny')) == 1324724


@pytest.mark.parametrize('out_indices', [(3, 1), (1, 1)])
def test_maps_come_by_stage(out_indices):
    with pytest.raises(ValueError, match=r'out_indices=.* must list stages from 0 to 3 in ascending order'):
        small(out_indices=out_indices)


def test_a_stage_may_be_without_blocks():
    assert small(arch=dict(widths=(8, 8, 8, 8), depths=(0, 1, 0, 1))).eval()(image())[0].shape == (2, 8, 8, 12)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch='huge'), r"arch='huge' of HCSSNet is none of \('tiny', 'small', 'base'\)"),
        (dict(arch=dict(widths=(8,) * 4)), 'arch=.* of HCSSNet should be a name, or a dict with the keys widths and'),
        (dict(arch=dict(widths=(8,) * 3, depths=(1,) * 4)), r'widths=\(8, 8, 8\) of HCSSNet should be four whole'),
        (
            dict(arch=dict(widths=(8,) * 4, depths=(1,) * 5)),
            r'depths=\(1, 1, 1, 1, 1\) of HCSSNet should be four whole numbers from 0',
        ),
        (dict(arch=dict(widths=(8, 8, 8, 0), depths=(1,) * 4)), 'widths=.* of HCSSNet should'),
        (dict(arch=dict(widths=(8,) * 4, depths=(1, 1, 1, -1))), 'depths=.* of HCSSNet should'),
        (dict(stem='resnet'), "stem='resnet' of HCSSNet should be 'spd_mixer', options of SPDMixer, or 'conv'"),
        (dict(stem=dict(branches=2)), 'stem has no option branches=2: its options are num_branches'),
        (dict(out_indices=()), r'out_indices=\(\) must list stages from 0 to 3 in ascending order'),
        (dict(out_indices=1), 'out_indices=1 must list stages from 0 to 3'),
        (dict(arch=None), 'arch=None of HCSSNet should be a name'),
        (dict(arch=dict(widths=32, depths=(1,) * 4)), 'widths=32 of HCSSNet should be four whole numbers'),
        (dict(feedforward_ratio=0), 'feedforward_ratio=0 of HCSSNet should be above 0'),
        (dict(drop_path_rate=1), 'feedforward_ratio=2.0 of HCSSNet should be above 0, and drop_path_rate=1 from 0'),
        (dict(stem=dict(in_channels=4)), 'stem.in_channels=4 cannot be set: an image has three'),
        (dict(out_indices=(1, 4)), r'out_indices=\(1, 4\) must list stages from 0 to 3'),
        (dict(out_indices=(-1,)), r'out_indices=\(-1,\) must list'),
        (dict(frozen_stages=5), 'frozen_stages=5 must be -1'),
        (dict(frozen_stages=-2), 'frozen_stages=-2 must be -1'),
        (
            dict(fusion=dict(kernel=3)),
            'fusion has no option kernel=3: its options are kernel_size, mask_kernel_size, ss2d',
        ),
        (dict(fusion=dict(kernel_size=2)), 'kernel_size=2 of HCSSFusion should be odd'),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=f'^{message}'):
        HCSSNet(**options)


# In detectors ---------------------------------------------------------------------------------------------------------


def test_in_an_fcos():
    """A training step and a prediction, from a config; the gradient reaches the stem."""
    backbone = dict(type='mmscale.HCSSNet', arch=ARCH, fusion=FUSION)
    head = dict(type='FCOSHead', num_classes=3, in_channels=32, feat_channels=32, stacked_convs=1)
    model = MODELS.build(
        ConfigDict(
            type='FCOS',
            backbone=backbone,
            neck={**neck('FPN'), 'type': 'FPN', 'in_channels': [12, 16, 20], 'start_level': 0},
            bbox_head=dict(head, strides=[8, 16, 32, 64, 128], norm_cfg=dict(type='GN', num_groups=4)),
            test_cfg=dict(nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.6), max_per_img=20),
        )
    )
    model.init_weights()
    losses = model.train().loss(image(size=(96, 128)), [sample(2), sample(1)])
    sum(losses.values()).backward()
    assert all(p.grad.any() for p in model.backbone.stem.parameters())
    with torch.no_grad():
        results = model.eval().predict(image(size=(96, 128)), [sample(0), sample(0)])
    assert [len(result.pred_instances) for result in results] == [20, 20]


@cache
def cost(size, classes=80):
    """Parameters and FLOPs (2 x multiply-adds) at 640x640, the box branch counted on every position as the paper's."""
    cfg = Config.fromfile(CONFIGS / f'{size}_72e_visdrone.py')
    cfg.model.box_all_proposals, cfg.model.bbox_head.num_classes = True, classes
    cfg.model.backbone.pop('init_cfg', None)
    result = complexity(cfg, (640, 640))
    assert result.unknown == {}
    return result


def test_hsd_detr_s_is_lighter_than_rt_detr_r18():
    """The baseline's figures of 20.2 M and 61.7 GFLOPs are those with 80 classes."""
    ours, baseline = cost('hsd-detr_s'), cost('rtdetr_r18')
    assert baseline.params / 1e6 == pytest.approx(20.2, abs=0.06)
    assert baseline.flops / 1e9 == pytest.approx(61.7, rel=0.003)
    assert ours.params < baseline.params and ours.flops < baseline.flops
    assert ours.params == 14_292_494
    assert ours.macs == 23_058_409_664, f'{ours.flops / 1e9} GFLOPs'
    assert ours.by_module['backbone'] == 9_342_408_832


def test_hsd_detr_s_by_its_config():
    """Ten classes, and boxes of the selected queries alone: what runs."""
    ours = complexity(CONFIGS / 'hsd-detr_s_72e_visdrone.py', (640, 640))
    assert (ours.params, ours.macs) == (14_202_614, 21_832_528_064)

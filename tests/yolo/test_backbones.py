"""The backbones of YOLOv10 and YOLOv12: layers, numbers of weights, starts, MMYOLO's options and errors."""

import pytest
import torch
from torch import nn

from mmscale.registry import HAS_MMYOLO
from mmscale.yolo.attention import A2C2f, AreaAttention, AreaAttentionBlock
from mmscale.yolo.blocks import C2f, C2fCIB, C3k2, LargeKernelConv

from . import literal
from .scales import BINS, YOLOV10, YOLOV12, yolov10, yolov12
from .small import ABSENT, SCALE, build, count, stirred, weigh, without_gradient

if not HAS_MMYOLO:
    pytest.skip(ABSENT, allow_module_level=True)

BACKBONES = {
    'v10': dict(type='YOLOv10Backbone'),
    'v10, plain': dict(type='YOLOv10Backbone', cib_stages=()),
    'v10, large': dict(type='YOLOv10Backbone', cib_stages=(3, 4), large_kernel=True),
    'v12': dict(type='YOLOv12Backbone'),
    'v12, large': dict(type='YOLOv12Backbone', c3k=True, residual=True, mlp_ratio=1.5),
    'v12, first release': dict(type='YOLOv12Backbone', position_kernel=7, stride_groups=(1, 1)),
}


COMMON = (
    'last_stage_out_channels, deepen_factor, widen_factor, input_channels, out_indices, frozen_stages, plugins, '
    'norm_cfg, act_cfg, norm_eval, init_cfg'
)


def backbone(type, seed=0, **options):
    torch.manual_seed(seed)
    return build(type, **{**SCALE, **options})


@pytest.fixture(params=BACKBONES.values(), ids=BACKBONES)
def options(request):
    return request.param


def image(height=64, width=96, batch=2, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def kinds(stage):
    return [type(layer).__name__ for layer in stage]


# Numbers of weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('scale', YOLOV10)
def test_yolov10_has_as_many_weights_as_released(scale):
    *_, both, alone = YOLOV10[scale]
    with torch.device('meta'):
        parts = yolov10(scale)
    assert count(*parts) + BINS == both
    assert count(*parts) - count(parts[2].one_to_many) + BINS == alone


@pytest.mark.parametrize('scale', YOLOV12)
def test_yolov12_has_as_many_weights_as_released(scale):
    with torch.device('meta'):
        assert count(*yolov12(scale)) + BINS == YOLOV12[scale][-1]


# Layers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('scale', YOLOV10)
def test_yolov10s_layers(scale):
    """Table 13 of the appendix: stride 2 by plain convolutions, then by SCDown; pooling and PSA at the end."""
    with torch.device('meta'):
        module = yolov10(scale)[0]
    blocks = dict(n=('C2f', 'C2f'), x=('C2fCIB', 'C2fCIB')).get(scale, ('C2f', 'C2fCIB'))
    assert kinds(module.stage1) == kinds(module.stage2) == ['ConvModule', 'C2f']
    assert kinds(module.stage3) == ['SCDown', blocks[0]]
    assert kinds(module.stage4) == ['SCDown', blocks[1], 'SPPF', 'PSA']
    depth = dict(n=1, s=1, m=2, b=2).get(scale, 3)
    stages = [module.stage1, module.stage2, module.stage3, module.stage4]
    assert [len(stage[1].blocks) for stage in stages] == [depth, 2 * depth, 2 * depth, depth]
    assert any(isinstance(m, LargeKernelConv) for m in module.modules()) == (scale == 's')
    for part in module.modules():
        if type(part) in (C2f, C2fCIB):
            assert all(block.shortcut for block in part.blocks)


@pytest.mark.parametrize('scale', YOLOV12)
def test_yolov12s_layers(scale):
    """Early stages of convolutions, late ones of attention, in four areas and in one."""
    with torch.device('meta'):
        module = yolov12(scale)[0]
    stages = [module.stage1, module.stage2, module.stage3, module.stage4]
    assert [kinds(stage) for stage in stages] == [['ConvModule', kind] for kind in ('C3k2', 'C3k2', 'A2C2f', 'A2C2f')]
    depth = 1 if scale in 'nsm' else 2
    assert [len(stage[1].blocks) for stage in stages] == [depth, depth, 2 * depth, 2 * depth]
    assert [stage[0].conv.groups for stage in stages] == [2, 4, 1, 1]
    areas = [
        {part.attention.areas for part in stage.modules() if isinstance(part, AreaAttentionBlock)} for stage in stages
    ]
    assert areas == [set(), set(), {4}, {1}]
    assert {block.attention.position.conv.kernel_size for block in stages[2][1].blocks[0]} == {(5, 5)}
    assert [stage[1].gamma is not None for stage in stages[2:]] == [scale in 'lx'] * 2
    early = {type(block).__name__ for stage in stages[:2] for block in stage[1].blocks}
    assert early == ({'C3k'} if scale in 'mlx' else {'Bottleneck'})


def test_yolov12s_first_release():
    """No groups in the early convolutions, and a 7x7 kernel on the values."""
    module = backbone(**BACKBONES['v12, first release'])
    assert [stage[0].conv.groups for stage in (module.stage1, module.stage2)] == [1, 1]
    kernels = {part.position.conv.kernel_size for part in module.modules() if isinstance(part, AreaAttention)}
    assert kernels == {(7, 7)}


def test_yolov12s_widths():
    """A stage of C3k2 widens its map after the convolution, with halves of a quarter of it."""
    module = backbone('YOLOv12Backbone', widen_factor=0.25)
    stages = [module.stage1, module.stage2, module.stage3, module.stage4]
    assert [stage[0].conv.out_channels for stage in stages] == [32, 64, 128, 256]
    assert [stage[1].fuse.conv.out_channels for stage in stages] == [64, 128, 128, 256]
    assert [stage[1].split.conv.out_channels for stage in stages[:2]] == [32, 64]


@torch.no_grad()
@pytest.mark.parametrize('large', [False, True])
def test_yolov10_is_its_drawing(large):
    cib = dict(cib_stages=(3, 4), large_kernel=True) if large else dict(cib_stages=(4,))
    module = stirred(backbone('YOLOv10Backbone', **cib).double())
    x, outs = image(32, 64).double(), []

    def plain(block, y):
        return literal.bottleneck(block, y, True)

    y = literal.conv(module.stem, x, stride=2)
    for number, stage in enumerate([module.stage1, module.stage2, module.stage3, module.stage4], 1):
        y = literal.conv(stage[0], y, stride=2) if number < 3 else literal.scdown(stage[0], y)
        inverted = number == 4 or (number == 3 and large)
        y = literal.c2f(stage[1], y, (lambda b, z: literal.cib(b, z, True, large)) if inverted else plain)
        outs.append(y)
    outs[3] = literal.psa(module.stage4[3], literal.sppf(module.stage4[2], y), 1)
    for a, b in zip(module(x), outs[1:], strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize('large', [False, True])
def test_yolov12_is_its_drawing(large):
    options = dict(c3k=True, residual=True, mlp_ratio=1.5, areas=(2, 1)) if large else dict(stride_groups=(1, 2))
    module = stirred(backbone('YOLOv12Backbone', **options).double())
    x, outs = image(32, 64, batch=1).double(), []
    groups, areas = ((2, 4), (2, 1)) if large else ((1, 2), (4, 1))
    y = literal.conv(module.stem, x, stride=2)
    for number, stage in enumerate([module.stage1, module.stage2, module.stage3, module.stage4]):
        y = literal.conv(stage[0], y, stride=2, groups=groups[number] if number < 2 else 1)
        if number < 2:
            y = literal.c2f(stage[1], y, lambda b, z: (literal.c3k if large else literal.bottleneck)(b, z, True))
        else:
            heads = stage[1].reduce.conv.out_channels // 32
            y = literal.a2c2f(stage[1], y, heads, areas[number - 2], stage[1].gamma if large else None)
        outs.append(y)
    for a, b in zip(module(x), outs[1:], strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


# Shapes and gradients -------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('size', [(32, 64), (96, 64), (160, 32)], ids=str)
def test_shapes(options, size):
    outs = stirred(backbone(**options))(image(*size))
    shapes = {
        'YOLOv10Backbone': [(32, 8), (64, 16), (128, 32)],
        'YOLOv12Backbone': [(64, 8), (64, 16), (128, 32)],
    }[options['type']]
    assert [tuple(out.shape) for out in outs] == [(2, c, size[0] // s, size[1] // s) for c, s in shapes]


@torch.no_grad()
def test_batch_of_two_is_two_batches_of_one(options):
    module, x = stirred(backbone(**options)), image()
    alone = [module(x[i : i + 1]) for i in range(2)]
    for out, *parts in zip(module(x), *alone, strict=True):
        torch.testing.assert_close(out, torch.cat(parts), atol=1e-5, rtol=1e-5)


def test_every_weight_has_a_gradient(options):
    module = backbone(**options)
    weigh(module(image(96, 96))).backward()
    assert not without_gradient(module)


def test_an_image_that_the_areas_do_not_divide():
    with pytest.raises(ValueError, match='a map of 3x5 positions is not divided by areas=4: use images whose sides'):
        stirred(backbone('YOLOv12Backbone'))(image(48, 80))


# MMYOLO's options -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_maps_of_the_users_choice(options):
    x = image()
    every, some = (
        stirred(backbone(**options, out_indices=indices))(x) for indices in ((0, 1, 2, 3, 4), (0, 3))
    )
    assert len(every) == 5 and len(some) == 2
    assert torch.equal(some[0], every[0]) and torch.equal(some[1], every[3])
    assert [x.shape[2] // out.shape[2] for out in every] == [2, 4, 8, 16, 32]


def test_norm_and_activation_are_the_users_in_every_layer(options):
    norms = [m for m in backbone(**options).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(0.001, 0.03)}
    mine = backbone(**options, norm_cfg=dict(type='BN', eps=0.25), act_cfg=dict(type='ReLU'))
    assert {m.eps for m in mine.modules() if isinstance(m, nn.BatchNorm2d)} == {0.25}
    assert not any(isinstance(m, nn.SiLU) for m in mine.modules())


def test_frozen_stages_and_norms(options):
    module = backbone(**options, frozen_stages=2, norm_eval=True)
    module.train()
    frozen = {name.split('.')[0] for name, p in module.named_parameters() if not p.requires_grad}
    assert frozen == {'stem', 'stage1', 'stage2'}
    assert not any(m.training for m in module.modules() if isinstance(m, nn.BatchNorm2d))


def test_they_return_themselves_in_either_mode(options):
    """MMYOLO's return None."""
    module = backbone(**options)
    assert module.eval() is module and not module.training
    assert module.train() is module and module.training


def test_gray_images(options):
    module = stirred(backbone(**options, input_channels=1))
    assert module.stem.conv.in_channels == 1
    assert len(module(image()[:, :1])) == 3


def test_plugins_stand_behind_a_stage_at_its_width(options):
    plugin = dict(cfg=dict(type='ContextBlock', ratio=0.5), stages=(False, True, False, True))
    module = backbone(**options, plugins=[plugin])
    plain = backbone(**options)
    widths = [plain(image())[i].shape[1] for i in (0, 2)]
    assert kinds(module.stage2)[:-1] == kinds(plain.stage2) and kinds(module.stage1) == kinds(plain.stage1)
    assert [stage[-1].in_channels for stage in (module.stage2, module.stage4)] == widths
    assert [tuple(out.shape) for out in module(image())] == [tuple(out.shape) for out in plain(image())]


# Starts ---------------------------------------------------------------------------------------------------------------


def test_layers_start_as_pytorchs_and_attention_blocks_as_released(options):
    module = backbone(**options)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 7)
    module.init_weights()
    blocks = [part for part in module.modules() if isinstance(part, AreaAttentionBlock)]
    special = {id(layer) for block in blocks for layer in block.modules()}
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if id(layer) in special:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15)
        else:
            bound = layer.weight[0].numel() ** -0.5
            assert 0.7 * bound < layer.weight.abs().max() <= bound * 1.0001
    assert bool(blocks) == (options['type'] == 'YOLOv12Backbone')
    assert all((part.gamma == 0.01).all() for part in module.modules() if getattr(part, 'gamma', None) is not None)


def test_a_start_of_the_users_stands(options):
    """But the stem's, a ConvModule that MMEngine lets draw itself anew, as in MMYOLO's backbones."""
    module = backbone(**options, init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    module.init_weights()
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer is not module.stem.conv]
    assert all((layer.weight == 0.5).all() for layer in layers)


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(type='YOLOv10Backbone', cib_stages=(3, 5)),
            'cib_stages=[3, 5] names stage 5, but the stages are 1 to 4',
        ),
        (
            dict(type='YOLOv10Backbone', cib_stages=[0]),
            'cib_stages=[0] names stage 0, but the stages are 1 to 4',
        ),
        (
            dict(type='YOLOv10Backbone', cib_stages=4),
            'cib_stages=4 of YOLOv10Backbone should be a list of stages, 1 to 4',
        ),
        (
            dict(type='YOLOv10Backbone', cib_stages=[True]),
            'cib_stages=[True] of YOLOv10Backbone should be a list of stages, 1 to 4',
        ),
        (
            dict(type='YOLOv10Backbone', cib_stage=4),
            f'YOLOv10Backbone has no option cib_stage=4: its options are cib_stages, large_kernel, {COMMON}',
        ),
        (
            dict(type='YOLOv10Backbone', arch_setting=[]),
            f'YOLOv10Backbone has no option arch_setting=[]: its options are cib_stages, large_kernel, {COMMON}',
        ),
        (
            dict(type='YOLOv12Backbone', area=4),
            'YOLOv12Backbone has no option area=4: its options are c3k, residual, mlp_ratio, areas, position_kernel, '
            f'stride_groups, {COMMON}',
        ),
        (
            dict(type='YOLOv10Backbone', out_indices=4),
            'out_indices=4 of YOLOv10Backbone should be numbers from 0 to 4',
        ),
        (
            dict(type='YOLOv12Backbone', out_indices=(3, 5)),
            'out_indices=(3, 5) of YOLOv12Backbone should be numbers from 0 to 4',
        ),
        (
            dict(type='YOLOv12Backbone', areas=4),
            'areas=4 of YOLOv12Backbone should be two positive numbers',
        ),
        (
            dict(type='YOLOv12Backbone', stride_groups=[2, 4.0]),
            'stride_groups=[2, 4.0] of YOLOv12Backbone should be two positive numbers',
        ),
        (
            dict(type='YOLOv12Backbone', areas=(4,)),
            'areas=(4,) of YOLOv12Backbone should be two positive numbers',
        ),
        (
            dict(type='YOLOv12Backbone', areas=(4, 0)),
            'areas=(4, 0) of YOLOv12Backbone should be two positive numbers',
        ),
        (
            dict(type='YOLOv12Backbone', stride_groups=(2, 4, 1)),
            'stride_groups=(2, 4, 1) of YOLOv12Backbone should be two positive numbers',
        ),
        (
            dict(type='YOLOv12Backbone', stride_groups=(0, 4)),
            'stride_groups=(0, 4) of YOLOv12Backbone should be two positive numbers',
        ),
        (
            dict(type='YOLOv12Backbone', widen_factor=1 / 16),
            'out_channels=32 of A2C2f must be a multiple of 64',
        ),
    ],
)
def test_what_they_refuse_is_one_sentence(options, message):
    with pytest.raises(ValueError) as caught:
        backbone(**options)
    assert str(caught.value) == message


def test_parts_are_as_named():
    assert isinstance(backbone('YOLOv12Backbone').stage1[1], C3k2)
    assert isinstance(backbone('YOLOv12Backbone').stage3[1], A2C2f)

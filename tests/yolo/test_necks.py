"""The necks of YOLOv10 and YOLOv12: the path, the blocks on it, starts and errors."""

import warnings

import pytest
import torch
from torch import nn

from mmscale.registry import HAS_MMYOLO

from . import literal
from .scales import YOLOV10, YOLOV12, yolov10, yolov12
from .small import ABSENT, SCALE, WIDTHS, build, maps, stirred, weigh, without_gradient

if not HAS_MMYOLO:
    pytest.skip(ABSENT, allow_module_level=True)

V10 = dict(type='YOLOv10PAFPN', in_channels=[256, 512, 1024], out_channels=[256, 512, 1024])
V12 = dict(type='YOLOv12PAFPN', in_channels=[512, 512, 1024], out_channels=[256, 512, 1024])
ALL = ('top_down_16', 'bottom_up_16', 'bottom_up_32')
NECKS = {
    'v10': V10,
    'v10, large': {**V10, 'large_kernel': True},
    'v10, plain': {**V10, 'cib': ()},
    'v10, all': {**V10, 'cib': ALL},
    'v10, two': {**V10, 'cib': ('top_down_16', 'bottom_up_16')},
    'v10, other widths': {**V10, 'out_channels': [128, 256, 512]},
    'v12': V12,
    'v12, deep': {**V12, 'deepen_factor': 1.0},
    'v12, other widths': {**V12, 'in_channels': [256, 512, 768]},
}


def neck(type, seed=0, **options):
    torch.manual_seed(seed)
    return build(type, **{**SCALE, **options})


@pytest.fixture(params=NECKS.values(), ids=NECKS)
def options(request):
    return request.param


def inputs(options, **more):
    return maps([width // 8 for width in options['in_channels']], **more)


def up(x):
    """Every pixel becomes four."""
    return x[:, :, torch.arange(2 * x.shape[2]) // 2][:, :, :, torch.arange(2 * x.shape[3]) // 2]


@torch.no_grad()
def test_it_is_its_drawing(options):
    """What is upsampled and what is concatenated, in which order; which block stands where."""
    module = stirred(neck(**options).double())
    p3, p4, p5 = (x.double() for x in inputs(options, size=(64, 96)))

    def block(layer, name, *parts):
        x = torch.cat(parts, dim=1)
        if options['type'] == 'YOLOv12PAFPN':
            if name == 'bottom_up_32':
                return literal.c2f(layer, x, lambda b, y: literal.c3k(b, y, True))
            return literal.a2c2f(layer, x, None)
        if name in options.get('cib', ('bottom_up_32',)):
            large = options.get('large_kernel', False)
            return literal.c2f(layer, x, lambda b, y: literal.cib(b, y, True, large))
        return literal.c2f(layer, x, lambda b, y: literal.bottleneck(b, y, False))

    f4 = block(module.top_down_layers[0], 'top_down_16', up(p5), p4)
    f3 = block(module.top_down_layers[1], 'top_down_8', up(f4), p3)
    down = literal.conv(module.downsample_layers[0], f3, stride=2)
    n4 = block(module.bottom_up_layers[0], 'bottom_up_16', down, f4)
    second = module.downsample_layers[1]
    down = literal.scdown(second, n4) if hasattr(second, 'depthwise') else literal.conv(second, n4, stride=2)
    n5 = block(module.bottom_up_layers[1], 'bottom_up_32', down, p5)
    for a, b in zip(module((p3, p4, p5)), (f3, n4, n5), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


def kinds(layers):
    return [type(layer).__name__ for layer in layers]


@pytest.mark.parametrize('scale', YOLOV10)
def test_yolov10s_blocks(scale):
    """Table 13: ever more CIB with the scale; the last downsampling is SCDown; large kernels in n and s alone."""
    with torch.device('meta'):
        module = yolov10(scale)[1]
    up16 = 'C2fCIB' if scale in 'blx' else 'C2f'
    down16 = 'C2fCIB' if scale in 'mblx' else 'C2f'
    assert kinds(module.top_down_layers) == [up16, 'C2f']
    assert kinds(module.bottom_up_layers) == [down16, 'C2fCIB']
    assert kinds(module.downsample_layers) == ['ConvModule', 'SCDown']
    large = {type(m).__name__ for m in module.bottom_up_layers[1].modules()} & {'LargeKernelConv'}
    assert bool(large) == (scale in 'ns')
    depth = dict(n=1, s=1, m=2, b=2).get(scale, 3)
    assert {len(layer.blocks) for layer in (*module.top_down_layers, *module.bottom_up_layers)} == {depth}


@pytest.mark.parametrize('scale', YOLOV12)
def test_yolov12s_blocks(scale):
    with torch.device('meta'):
        module = yolov12(scale)[1]
    assert kinds(module.top_down_layers) == ['A2C2f', 'A2C2f']
    assert kinds(module.bottom_up_layers) == ['A2C2f', 'C3k2']
    assert kinds(module.downsample_layers) == ['ConvModule', 'ConvModule']
    layers = [*module.top_down_layers, *module.bottom_up_layers]
    assert {kind for layer in layers for kind in kinds(layer.blocks)} == {'C3k'}
    assert {len(layer.blocks) for layer in layers} == {1 if scale in 'nsm' else 2}


@torch.no_grad()
@pytest.mark.parametrize('size', [(32, 64), (160, 32)], ids=str)
def test_shapes(options, size):
    x = inputs(options, size=size)
    outs = stirred(neck(**options))(x)
    assert isinstance(outs, tuple)
    widths = [width // 8 for width in options['out_channels']]
    assert [tuple(out.shape) for out in outs] == [(2, c, *y.shape[2:]) for c, y in zip(widths, x, strict=True)]


@torch.no_grad()
def test_batch_of_two_is_two_batches_of_one(options):
    module, x = stirred(neck(**options)), inputs(options)
    alone = [module([level[i : i + 1] for level in x]) for i in range(2)]
    for out, *parts in zip(module(x), *alone, strict=True):
        torch.testing.assert_close(out, torch.cat(parts), atol=1e-5, rtol=1e-5)


def test_every_weight_has_a_gradient(options):
    module = neck(**options)
    weigh(module(inputs(options))).backward()
    assert not without_gradient(module)


def test_norm_and_activation_are_the_users_in_every_layer(options):
    norms = [m for m in neck(**options).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(0.001, 0.03)}
    mine = neck(**options, norm_cfg=dict(type='BN', eps=0.25), act_cfg=dict(type='ReLU'))
    assert {m.eps for m in mine.modules() if isinstance(m, nn.BatchNorm2d)} == {0.25}
    assert not any(isinstance(m, nn.SiLU) for m in mine.modules())


def test_starts(options):
    """As PyTorch's, unless the user names another."""
    module = neck(**options)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 7)
    module.init_weights()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.7 * bound < layer.weight.abs().max() <= bound * 1.0001
    module = neck(**options, init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    module.init_weights()
    assert all((layer.weight == 0.5).all() for layer in module.modules() if isinstance(layer, nn.Conv2d))


def test_they_return_themselves_in_either_mode(options):
    """MMYOLO's return None."""
    module = neck(**options)
    assert module.eval() is module and not module.training
    assert module.train() is module and module.training


def test_all_can_be_frozen(options):
    module = neck(**options, freeze_all=True)
    module.train()
    assert not any(p.requires_grad for p in module.parameters())
    assert not any(m.training for m in module.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    'options, message',
    [
        (
            {**V10, 'cib': ('top_down_8',)},
            "cib=['top_down_8'] of YOLOv10PAFPN names 'top_down_8'; there is "
            "['top_down_16', 'bottom_up_16', 'bottom_up_32']",
        ),
        (
            {**V10, 'cib': 'bottom_up_32'},
            "cib='bottom_up_32' of YOLOv10PAFPN should be a list; there is "
            "['top_down_16', 'bottom_up_16', 'bottom_up_32']",
        ),
        (
            {**V10, 'cibs': ()},
            'YOLOv10PAFPN has no option cibs=(): its options are cib, large_kernel, in_channels, out_channels, '
            'deepen_factor, widen_factor, freeze_all, norm_cfg, act_cfg, init_cfg',
        ),
        (
            {**V12, 'large_kernel': True},
            'YOLOv12PAFPN has no option large_kernel=True: its options are in_channels, out_channels, deepen_factor, '
            'widen_factor, freeze_all, norm_cfg, act_cfg, init_cfg',
        ),
        (
            {**V12, 'in_channels': 512},
            'in_channels=512 and out_channels=[256, 512, 1024] of YOLOv12PAFPN should both name the three maps of the '
            'strides 8, 16 and 32',
        ),
        (
            {**V10, 'in_channels': [256, 512]},
            'in_channels=[256, 512] and out_channels=[256, 512, 1024] of YOLOv10PAFPN should both name the three maps '
            'of the strides 8, 16 and 32',
        ),
        (
            {**V12, 'out_channels': [64, 128, 256, 512]},
            'in_channels=[512, 512, 1024] and out_channels=[64, 128, 256, 512] of YOLOv12PAFPN should both name the '
            'three maps of the strides 8, 16 and 32',
        ),
    ],
)
def test_what_they_refuse_is_one_sentence(options, message):
    with pytest.raises(ValueError) as caught:
        neck(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    'widths, message',
    [
        ([64, 64, 96], 'maps with [64, 64, 96] channels, but its in_channels at widen_factor=0.125 are [64, 64, 128]'),
        ([64, 64], '2 maps, but was built for 3'),
        ([32, 64, 64, 128], '4 maps, but was built for 3'),
    ],
)
def test_a_backbone_of_other_maps_is_one_sentence(widths, message):
    x = [torch.rand(1, width, 32 >> place, 32 >> place) for place, width in enumerate(widths)]
    with pytest.raises(ValueError) as caught:
        neck(**V12)(x)
    assert str(caught.value) == f'YOLOv12PAFPN got {message}'


@torch.no_grad()
@pytest.mark.parametrize('type', ['YOLOv10PAFPN', 'YOLOv12PAFPN', 'CSFPAFPN', 'FINEYOLOv8PAFPN', 'FINEYOLOv6RepPAFPN'])
def test_the_check_of_its_maps_is_in_no_graph(type):
    """Tracing, which ONNX's exporter does, warns of nothing; torch.compile takes the neck whole."""
    plain = dict(fine_levels=[]) if type.startswith('FINE') else {}  # FINE itself warns of the sizes that it checks
    module = stirred(neck(**{**V10, 'type': type}, **plain))
    x = inputs(V10, size=(64, 96), batch=1)
    with warnings.catch_warnings():
        warnings.simplefilter('error', torch.jit.TracerWarning)
        traced = torch.jit.trace(module, (x,))
    compiled = torch.compile(module, fullgraph=True, backend='aot_eager', dynamic=False)
    for a, b, c in zip(module(x), traced(x), compiled(x), strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)


def test_the_small_ones_widths():
    assert [width // 8 for width in V10['in_channels']] == WIDTHS

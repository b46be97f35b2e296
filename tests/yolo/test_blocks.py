"""Every block equals its drawing, layer by layer; laws of areas and of re-parameterisation. Without MMYOLO."""

import pytest
import torch
from torch import nn

from mmscale.layers import init_as_torch, reparameterize
from mmscale.yolo.attention import PSA, A2C2f, AreaAttention, AreaAttentionBlock
from mmscale.yolo.blocks import CIB, SPPF, Bottleneck, C2f, C2fCIB, C3k, C3k2, LargeKernelConv, SCDown, conv

from . import literal
from .small import count, stirred, weigh


def double(module, seed=0):
    return stirred(module.double(), seed)


def image(channels, height=4, width=6, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.double)


def assert_same(ours, theirs, tolerance=1e-10):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


# name: the module, its input's channels and size, its drawing
BLOCKS = {
    'conv': (lambda: conv(4, 6), (4,), literal.conv),
    'conv 3x3': (lambda: conv(4, 6, 3), (4,), literal.conv),
    'conv 7x7': (lambda: conv(4, 6, 7), (4,), literal.conv),
    'conv, stride 2': (lambda: conv(4, 6, 3, stride=2), (4, 5, 6), lambda m, x: literal.conv(m, x, stride=2)),
    'conv, groups': (lambda: conv(4, 6, 3, groups=2), (4,), lambda m, x: literal.conv(m, x, groups=2)),
    'conv, no activation': (lambda: conv(4, 6, act=False), (4,), lambda m, x: literal.conv(m, x, act=False)),
    'Bottleneck': (lambda: Bottleneck(4, 4), (4,), lambda m, x: literal.bottleneck(m, x, True)),
    'Bottleneck, no shortcut': (lambda: Bottleneck(4, 4, False), (4,), lambda m, x: literal.bottleneck(m, x, False)),
    'Bottleneck, wider': (lambda: Bottleneck(4, 6), (4,), lambda m, x: literal.bottleneck(m, x, False)),
    'Bottleneck, kernels': (
        lambda: Bottleneck(4, 4, kernels=(1, 5)),
        (4,),
        lambda m, x: literal.bottleneck(m, x, True),
    ),
    'C2f': (
        lambda: C2f(4, 8, 2),
        (4,),
        lambda m, x: literal.c2f(m, x, lambda b, y: literal.bottleneck(b, y, False)),
    ),
    'C2f, shortcut': (
        lambda: C2f(4, 8, 3, shortcut=True),
        (4,),
        lambda m, x: literal.c2f(m, x, lambda b, y: literal.bottleneck(b, y, True)),
    ),
    'C3k': (lambda: C3k(8), (8,), lambda m, x: literal.c3k(m, x, True)),
    'C3k, no shortcut': (lambda: C3k(8, 3, False), (8,), lambda m, x: literal.c3k(m, x, False)),
    'C3k2': (
        lambda: C3k2(4, 8, 2),
        (4,),
        lambda m, x: literal.c2f(m, x, lambda b, y: literal.bottleneck(b, y, True)),
    ),
    'C3k2, no shortcut': (
        lambda: C3k2(4, 8, 2, shortcut=False, expansion=0.25),
        (4,),
        lambda m, x: literal.c2f(m, x, lambda b, y: literal.bottleneck(b, y, False)),
    ),
    'C3k2 of C3k': (
        lambda: C3k2(4, 8, 2, c3k=True),
        (4,),
        lambda m, x: literal.c2f(m, x, lambda b, y: literal.c3k(b, y, True)),
    ),
    'C3k2 of C3k, no shortcut': (
        lambda: C3k2(4, 8, c3k=True, shortcut=False),
        (4,),
        lambda m, x: literal.c2f(m, x, lambda b, y: literal.c3k(b, y, False)),
    ),
    'SPPF': (lambda: SPPF(8, 6), (8, 9, 7), literal.sppf),
    'SCDown': (lambda: SCDown(4, 6), (4,), literal.scdown),
    'SCDown, odd': (lambda: SCDown(4, 6), (4, 5, 7), literal.scdown),
    'LargeKernelConv': (lambda: LargeKernelConv(4), (4, 9, 8), literal.large_kernel),
    'CIB': (lambda: CIB(4), (4,), lambda m, x: literal.cib(m, x, True, False)),
    'CIB, no shortcut': (lambda: CIB(4, shortcut=False), (4,), lambda m, x: literal.cib(m, x, False, False)),
    'CIB, large': (lambda: CIB(4, large_kernel=True), (4, 8, 8), lambda m, x: literal.cib(m, x, True, True)),
    'C2fCIB': (
        lambda: C2fCIB(4, 8, 2),
        (4,),
        lambda m, x: literal.c2f(m, x, lambda b, y: literal.cib(b, y, True, False)),
    ),
    'C2fCIB, large, no shortcut': (
        lambda: C2fCIB(4, 8, 2, shortcut=False, large_kernel=True),
        (4,),
        lambda m, x: literal.c2f(m, x, lambda b, y: literal.cib(b, y, False, True)),
    ),
    'AreaAttention': (lambda: AreaAttention(8, 2), (8, 3, 4), lambda m, x: literal.area_attention(m, x, 2, 1)),
    'AreaAttention, areas': (
        lambda: AreaAttention(8, 2, areas=4),
        (8, 4, 3),
        lambda m, x: literal.area_attention(m, x, 2, 4),
    ),
    'AreaAttention, areas end within a row': (
        lambda: AreaAttention(6, 3, areas=4),
        (6, 2, 6),
        lambda m, x: literal.area_attention(m, x, 3, 4),
    ),
    'AreaAttention, position': (
        lambda: AreaAttention(8, 4, areas=2, position_kernel=7),
        (8, 2, 3),
        lambda m, x: literal.area_attention(m, x, 4, 2),
    ),
    'AreaAttentionBlock': (
        lambda: AreaAttentionBlock(8, 2, areas=2, mlp_ratio=1.5),
        (8, 4, 2),
        lambda m, x: literal.area_block(m, x, 2, 2),
    ),
    'A2C2f': (lambda: A2C2f(4, 128, 2, areas=2), (4, 2, 3), lambda m, x: literal.a2c2f(m, x, 2, 2)),
    'A2C2f of C3k': (lambda: A2C2f(4, 12, 2), (4,), lambda m, x: literal.a2c2f(m, x, None)),
    'A2C2f, residual': (
        lambda: A2C2f(64, 64, areas=1, residual=True),
        (64, 2, 2),
        lambda m, x: literal.a2c2f(m, x, 1, 1, m.gamma),
    ),
    'PSA': (lambda: PSA(16), (16, 3, 4), lambda m, x: literal.psa(m, x, 1)),
    'PSA, heads': (lambda: PSA(16, num_heads=2), (16, 3, 4), lambda m, x: literal.psa(m, x, 2)),
}


@pytest.mark.parametrize('name', BLOCKS)
def test_it_is_its_drawing(name):
    build, (channels, *size), drawing = BLOCKS[name]
    module, x = double(build()), image(channels, *size)
    assert_same(module(x), drawing(module, x))


@pytest.mark.parametrize('name', ['C2f', 'C2fCIB', 'SPPF', 'AreaAttention, areas', 'A2C2f, residual', 'PSA, heads'])
def test_gradients_are_those_of_the_drawing(name):
    build, (channels, *size), drawing = BLOCKS[name]
    module, x = double(build()), image(channels, *size).requires_grad_()
    leaves = [x, *module.parameters()]
    ours = torch.autograd.grad(weigh([module(x)]), leaves)
    for a, b in zip(ours, torch.autograd.grad(weigh([drawing(module, x)]), leaves), strict=True):
        assert_same(a, b, 1e-8)


WITH_LAYERS = dict(
    conv=lambda **c: conv(4, 6, **c),
    Bottleneck=lambda **c: Bottleneck(4, 4, **c),
    C2f=lambda **c: C2f(4, 8, 2, **c),
    C3k=lambda **c: C3k(8, **c),
    C3k2=lambda **c: nn.ModuleList([C3k2(4, 8, **c), C3k2(4, 8, c3k=True, **c)]),
    SPPF=lambda **c: SPPF(8, 6, **c),
    SCDown=lambda **c: SCDown(4, 6, **c),
    LargeKernelConv=lambda **c: LargeKernelConv(4, **c),
    CIB=lambda **c: nn.ModuleList([CIB(4, **c), CIB(4, large_kernel=True, **c)]),
    C2fCIB=lambda **c: C2fCIB(4, 8, large_kernel=True, **c),
    AreaAttention=lambda **c: AreaAttention(8, 2, **c),
    AreaAttentionBlock=lambda **c: AreaAttentionBlock(8, 2, **c),
    A2C2f=lambda **c: nn.ModuleList([A2C2f(4, 64, areas=1, **c), A2C2f(4, 12, **c)]),
    PSA=lambda **c: PSA(16, **c),
)


@pytest.mark.parametrize('name', WITH_LAYERS)
def test_norm_and_activation_are_the_users_in_every_layer(name):
    norms = [m for m in WITH_LAYERS[name]().modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and {(m.eps, m.momentum) for m in norms} == {(0.001, 0.03)}  # the YOLOs' own
    mine = WITH_LAYERS[name](norm_cfg=dict(type='BN', eps=0.25, momentum=0.5), act_cfg=dict(type='ReLU'))
    norms = [m for m in mine.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(0.25, 0.5)}
    assert not any(isinstance(m, nn.SiLU) for m in mine.modules())


# Widths ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'module, layer, widths',
    [
        (Bottleneck(8, 8), 'conv1', (8, 4)),
        (C2f(8, 16), 'split', (8, 16)),
        (C2f(8, 16).blocks[0], 'conv1', (8, 8)),
        (C3k2(8, 16).blocks[0], 'conv1', (8, 4)),
        (C3k2(8, 16, expansion=0.25), 'split', (8, 8)),
        (C3k(8).blocks[0], 'conv1', (4, 4)),
        (SPPF(8, 6), 'reduce', (8, 4)),
        (CIB(4).layers, '1', (4, 8)),
        (AreaAttentionBlock(8, 2, mlp_ratio=1.2).mlp, '0', (8, 9)),
        (A2C2f(4, 12), 'reduce', (4, 6)),
        (PSA(16).mlp, '0', (8, 16)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_widths(module, layer, widths):
    layer = module.get_submodule(layer)
    assert (layer.conv.in_channels, layer.conv.out_channels) == widths


def test_heads_are_32_channels_wide_in_yolov12_and_64_in_yolov10():
    assert [half.attention.num_heads for half in A2C2f(8, 192, areas=1).blocks[0]] == [3, 3]
    assert [PSA(channels).attention.num_heads for channels in (32, 128, 256, 384)] == [1, 1, 2, 3]


# Areas ----------------------------------------------------------------------------------------------------------------


def test_one_area_is_global_attention():
    """PyTorch's own attention with the same weights, its heads being neighbouring channels as well."""
    module, x = double(AreaAttention(8, 2)), image(8, 3, 4)
    nn.init.zeros_(module.position.bn.weight)
    nn.init.zeros_(module.position.bn.bias)
    q, k = literal.conv(module.queries_keys, x, act=False).chunk(2, dim=1)
    tokens = [part.flatten(2).transpose(1, 2) for part in (q, k, literal.conv(module.values, x, act=False))]
    eye, nothing = torch.eye(8).double(), torch.zeros(8).double()
    mixed, _ = nn.functional.multi_head_attention_forward(
        *(part.transpose(0, 1) for part in tokens),
        *(8, 2, eye.repeat(3, 1), nothing.repeat(3), None, None, False, 0.0, eye, nothing),
    )
    expected = literal.conv(module.out, mixed.permute(1, 2, 0).reshape(x.shape), act=False)
    assert_same(module(x), expected)


@pytest.mark.parametrize('token', [(0, 0), (1, 2), (3, 1)])
def test_a_token_is_seen_in_its_own_area_only(token):
    """And there by all; the convolution on the values, which knows no areas, is off."""
    module, x = double(AreaAttention(8, 2, areas=2)), image(8, 4, 3, batch=1)
    nn.init.zeros_(module.position.bn.weight)
    changed = x.clone()
    changed[0, :, token[0], token[1]] += 1
    reached = (module(changed) - module(x)).abs().amax(dim=(0, 1)) > 1e-9
    own = torch.zeros(4, 3, dtype=torch.bool)
    own[:2] = token[0] < 2
    own[2:] = token[0] >= 2
    assert reached.equal(own)


def test_the_position_convolution_crosses_areas():
    """By two positions, the reach of a 5x5 kernel."""
    module, x = double(AreaAttention(8, 2, areas=2)), image(8, 4, 6, batch=1)
    changed = x.clone()
    changed[0, :, 1, 0] += 1
    reached = (module(changed) - module(x)).abs().amax(dim=(0, 1)) > 1e-9
    assert reached[:2].all() and reached[2:].tolist() == [[True] * 3 + [False] * 3] * 2


def test_as_many_areas_as_positions_leave_nothing_to_choose():
    module, x = double(AreaAttention(8, 2, areas=12)), image(8, 4, 3)
    values = literal.conv(module.values, x, act=False)
    expected = literal.conv(module.out, values + literal.depthwise(module.position, values, act=False), act=False)
    assert_same(module(x), expected)


def test_images_of_a_batch_do_not_see_each_other():
    for module in (double(AreaAttention(8, 2, areas=4)), double(PSA(8))):
        x = image(8, 4, 3, batch=3)
        assert_same(module(x), torch.cat([module(x[i : i + 1]) for i in range(3)]))


# Re-parameterisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('act_cfg', [None, dict(type='ReLU')])
def test_large_kernels_become_one_convolution(act_cfg):
    block = stirred(LargeKernelConv(6, act_cfg=act_cfg))
    x = torch.randn(2, 6, 11, 9)
    folded = block.reparameterized()
    with torch.no_grad():
        torch.testing.assert_close(folded(x), block(x), atol=1e-5, rtol=1e-5)
        assert type(folded[1]) is type(block.act)
    assert count(folded) == 6 * 49 + 6
    assert sum(isinstance(m, nn.Conv2d) for m in folded.modules()) == 1


def test_they_fold_in_a_stage_and_keep_its_type():
    stage = stirred(C2fCIB(8, 16, 2, large_kernel=True).double())
    x = image(8, 9, 10)
    folded = reparameterize(stage)
    assert not any(isinstance(m, LargeKernelConv) for m in folded.modules())
    assert any(isinstance(m, LargeKernelConv) for m in stage.modules())
    assert {p.dtype for p in folded.parameters()} == {torch.double}
    assert_same(folded(x), stage(x))


# Starts ---------------------------------------------------------------------------------------------------------------


def test_attention_blocks_start_as_released():
    """Normal of deviation 0.02, whatever PyTorch's layers do; the stage's other layers as PyTorch's, gamma at 0.01."""
    torch.manual_seed(0)
    stage = A2C2f(128, 128, areas=1, residual=True)
    for parameter in stage.parameters():
        nn.init.constant_(parameter, 7)
    stage.gamma.data.fill_(0.01)
    init_as_torch(stage)
    for block in stage.blocks[0]:
        layers = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        assert len(layers) == 6
        weights = torch.cat([layer.weight.flatten() for layer in layers])
        assert weights.std().item() == pytest.approx(0.02, rel=0.03) and weights.abs().max() > 0.05
    bound = 128**-0.5
    assert 0.95 * bound < stage.reduce.conv.weight.abs().max() <= bound
    assert (A2C2f(64, 64, areas=1, residual=True).gamma == 0.01).all()
    assert A2C2f(64, 64, areas=1).gamma is None


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: AreaAttention(8, 3), 'channels=8 are not a multiple of num_heads=3'),
        (lambda: PSA(16, num_heads=3), 'channels=8 are not a multiple of num_heads=3'),
        (lambda: A2C2f(4, 96, areas=1), 'out_channels=96 of A2C2f must be a multiple of 64'),
        (
            lambda: A2C2f(4, 64, areas=1, residual=True),
            'in_channels=4 must equal out_channels=64 where A2C2f adds them',
        ),
        (
            lambda: AreaAttention(8, 2, areas=4)(image(8, 3, 6)),
            'a map of 3x6 positions is not divided by areas=4: use images whose sides are multiples of 32',
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(build, message):
    with pytest.raises(ValueError) as caught:
        build()
    assert str(caught.value) == message


def test_c3k_blocks_need_no_heads():
    assert A2C2f(4, 12).blocks[0].fuse.conv.out_channels == 6

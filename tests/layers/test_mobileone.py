import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmscale.layers import MobileOneBlock, reparameterize

from .test_reparam import stirred

SHAPES = {'keeps its shape': (6, 6, 1), 'stride 2': (6, 6, 2), 'other width': (6, 12, 1), 'both': (6, 12, 2)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def normalised(x, norm, training=False):
    """Batch norm by its formula."""
    mean, var = norm.running_mean, norm.running_var
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    mean, var, weight, bias = (v.view(-1, 1, 1) for v in (mean, var, norm.weight, norm.bias))
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def literal(block, x, stride, groups, training=False):
    """The sum of fig. 3, branch by branch."""
    total = 0
    for branch in block.convs:
        kernel = branch.conv.weight
        out = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        total = total + normalised(out, branch.norm, training)
    if block.scale is not None:
        every = x[..., ::stride, ::stride]
        total = total + normalised(F.conv2d(every, block.scale.conv.weight, groups=groups), block.scale.norm, training)
    if block.identity is not None:
        total = total + normalised(x, block.identity, training)
    return total.relu()


@pytest.mark.parametrize('dtype, atol', [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=['float', 'double'])
@pytest.mark.parametrize('num_branches', [1, 3])
@pytest.mark.parametrize('groups', [1, 3, 6])
@pytest.mark.parametrize('kernel_size', [1, 3, 5])
@pytest.mark.parametrize('shape', SHAPES)
def test_becomes_one_convolution(shape, kernel_size, groups, num_branches, dtype, atol):
    channels, out_channels, stride = SHAPES[shape]
    block = MobileOneBlock(channels, out_channels, kernel_size, stride, groups, num_branches)
    stirred(block).to(dtype)
    folded = reparameterize(block)
    assert [type(m) for m in folded.modules() if not list(m.children())] == [nn.Conv2d, nn.ReLU]
    conv = folded[0]
    assert conv.weight.shape == (out_channels, channels // groups, kernel_size, kernel_size)
    x = torch.randn(2, channels, 9, 8, dtype=dtype)
    with torch.no_grad():
        expected = block(x)
        assert expected.shape == (2, out_channels, 9 if stride == 1 else 5, 8 // stride)
        torch.testing.assert_close(expected, literal(block, x, stride, groups), atol=atol, rtol=atol)
        torch.testing.assert_close(folded(x), expected, atol=atol, rtol=atol)
        assert reparameterize(folded)(x).equal(folded(x))


@pytest.mark.parametrize('shape', SHAPES)
def test_adds_its_branches_while_training(shape):
    """Every branch is normalised by statistics of its own."""
    channels, out_channels, stride = SHAPES[shape]
    block = stirred(MobileOneBlock(channels, out_channels, 3, stride, num_branches=2)).train()
    x = torch.randn(3, channels, 7, 6)
    expected = literal(block, x, stride, groups=1, training=True)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    'options, trained, folded',
    [
        # two 3x3 convolutions, a 1x1 one, the identity; every norm has 2 x 8
        (dict(num_branches=2), 2 * (8 * 8 * 9 + 16) + (8 * 8 + 16) + 16, 8 * 8 * 9 + 8),
        (dict(kernel_size=1), (8 * 8 + 16) + 16, 8 * 8 + 8),
        (dict(groups=8, stride=2), (8 * 9 + 16) + (8 + 16), 8 * 9 + 8),
        (dict(out_channels=12, kernel_size=5, groups=4), (12 * 2 * 25 + 24) + (12 * 2 + 24), 12 * 2 * 25 + 12),
    ],
    ids=['full', 'pointwise', 'depthwise', 'groups'],
)
def test_parameters(options, trained, folded):
    block = MobileOneBlock(**{**dict(in_channels=8, out_channels=8), **options})
    assert sum(p.numel() for p in block.parameters()) == trained
    assert sum(p.numel() for p in reparameterize(block).parameters()) == folded


def test_the_trained_block_stays():
    block = stirred(MobileOneBlock(4, 4, num_branches=2)).train()
    before = {name: value.clone() for name, value in block.state_dict().items()}
    folded = reparameterize(block)
    assert block.training and not folded.training
    block.reparameterized()
    assert block.training
    assert before.keys() == block.state_dict().keys()
    assert all(value.equal(before[name]) for name, value in block.state_dict().items())


@pytest.mark.parametrize('act_cfg, act', [(None, F.relu), (False, lambda x: x), (dict(type='SiLU'), F.silu)])
def test_activation(act_cfg, act):
    block, plain = MobileOneBlock(4, 4, act_cfg=act_cfg), MobileOneBlock(4, 4, act_cfg=False)
    plain.load_state_dict(stirred(block).state_dict())
    x = torch.randn(2, 4, 6, 6)
    expected = plain.eval()(x)
    assert (expected < 0).any()
    torch.testing.assert_close(block(x), act(expected))
    torch.testing.assert_close(reparameterize(block)(x), act(expected), atol=1e-5, rtol=1e-5)


def test_every_parameter_learns():
    block = MobileOneBlock(6, 6, num_branches=2)
    (block(torch.randn(2, 6, 7, 5)) * torch.randn(2, 6, 7, 5)).sum().backward()
    assert all(parameter.grad.any() for parameter in block.parameters())


def test_the_norm_is_the_config_s():
    block = MobileOneBlock(4, 4, norm_cfg=dict(type='GN', num_groups=2))
    assert [type(m) for m in block.modules() if 'Norm' in type(m).__name__] == [nn.GroupNorm] * 3
    with pytest.raises(TypeError, match='a GroupNorm cannot be folded'):
        reparameterize(block)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(kernel_size=4), 'kernel_size=4 must be odd and positive'),
        (dict(kernel_size=-1), 'kernel_size=-1 must be odd and positive'),
        (dict(stride=0), 'stride=0 must be at least 1'),
        (dict(groups=4), 'groups=4 must divide in_channels=6 and out_channels=8'),
        (dict(groups=3), 'groups=3 must divide in_channels=6 and out_channels=8'),
        (dict(groups=0), 'groups=0 must divide'),
        (dict(num_branches=0), 'num_branches=0 must be at least 1'),
        (dict(act_cfg=True), 'act_cfg=True must be a config, None for the ReLU'),
    ],
)
def test_wrong_arguments_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        MobileOneBlock(6, 8, **options)

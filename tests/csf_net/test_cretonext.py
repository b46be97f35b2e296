"""CReToNeXt equals its drawing, and keeps every block's output; it needs no MMYOLO."""

import pytest
import torch
from torch import nn

from mmscale.csf_net import CReToNeXt

from ..yolo.literal import bottleneck, conv
from ..yolo.small import count, stirred


def cretonext(*args, **options):
    torch.manual_seed(0)
    return stirred(CReToNeXt(*args, **options).double())


def image(channels=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, 5, 4, generator=generator, dtype=torch.double)


def literal(module, x):
    """Two 1x1 branches; residual blocks of two 3x3 on the deep one; all blocks' outputs beside the shallow branch."""
    shallow, deep = conv(module.shallow, x), conv(module.deep, x)
    outs = []
    for block in module.blocks:
        deep = bottleneck(block, deep, shortcut=True)
        outs.append(deep)
    return conv(module.fuse, torch.cat([shallow, *outs], dim=1))


@pytest.mark.parametrize('num_blocks', [1, 2, 4])
@pytest.mark.parametrize('ratio', [0.25, 0.5, 0.75])
def test_it_is_its_drawing(num_blocks, ratio):
    """In values, and in gradients of the map and of every weight."""
    module, x = cretonext(6, 8, num_blocks=num_blocks, shallow_ratio=ratio), image().requires_grad_()
    leaves = [x, *module.parameters()]
    results = []
    for out in (module(x), literal(module, x)):
        weights = torch.linspace(-1, 1, out.numel()).to(out).view_as(out)
        results.append([out, *torch.autograd.grad((out * weights).sum(), leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize('ratio, shallow', [(0.5, 4), (0.25, 2), (0.7, 6), (0.125, 1)])
def test_widths(ratio, shallow):
    """C out is split between the branches; blocks have the deep one's full width; the deep input is not kept."""
    module = CReToNeXt(6, 8, num_blocks=3, shallow_ratio=ratio)
    deep = 8 - shallow
    assert module.shallow.conv.weight.shape == (shallow, 6, 1, 1) and module.deep.conv.weight.shape == (deep, 6, 1, 1)
    for block in module.blocks:
        assert block.conv1.conv.weight.shape == block.conv2.conv.weight.shape == (deep, deep, 3, 3)
    assert module.fuse.conv.weight.shape == (8, shallow + 3 * deep, 1, 1)


def test_the_default_has_three_blocks_and_equal_branches():
    module = CReToNeXt(6, 8)
    assert len(module.blocks) == 3 and module.shallow.conv.out_channels == module.deep.conv.out_channels == 4


@pytest.mark.parametrize('place', range(4))
def test_channel_layout(place):
    """The shallow branch comes first, then the blocks in their order: only one of them is let through."""
    module, x = cretonext(6, 8, num_blocks=3, shallow_ratio=0.25), image()
    starts = [0, 2, 8, 14, 20]
    module.fuse.conv.weight.data[:, : starts[place]] = 0
    module.fuse.conv.weight.data[:, starts[place + 1] :] = 0
    before = module(x)
    for number, part in enumerate([module.shallow, *module.blocks]):
        handle = part.register_forward_hook(lambda m, args, out: out + 1)
        changed = not torch.allclose(module(x), before)
        handle.remove()
        # a block's output goes on to the blocks behind it; the shallow branch's does not
        assert changed == (number == 0 if place == 0 else 1 <= number <= place)


@pytest.mark.parametrize('place', range(3))
def test_every_blocks_output_is_kept(place):
    """A change of it reaches the output by the path that no later block is on."""
    module, x = cretonext(6, 8, num_blocks=3), image()
    later = list(module.blocks[place + 1 :])
    outs = {block: block(torch.zeros(2, 4, 5, 4).double()) for block in later}

    def forget(block, args, out):
        return outs[block]

    handles = [block.register_forward_hook(forget) for block in later]
    before = module(x)
    handles.append(module.blocks[place].register_forward_hook(lambda m, args, out: out + 1))
    assert not torch.allclose(module(x), before)
    for handle in handles:
        handle.remove()


def test_every_weight_has_a_gradient():
    module = CReToNeXt(6, 8).double().train()
    (module(image()) * torch.randn(2, 8, 5, 4).double()).sum().backward()
    assert all((p.grad != 0).any() for p in module.parameters())


def test_norm_and_activation_are_the_users_in_every_layer():
    norms = [m for m in CReToNeXt(6, 8).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 9 and {(m.eps, m.momentum) for m in norms} == {(0.001, 0.03)}
    mine = CReToNeXt(6, 8, norm_cfg=dict(type='BN', eps=0.25), act_cfg=dict(type='ReLU'))
    assert {m.eps for m in mine.modules() if isinstance(m, nn.BatchNorm2d)} == {0.25}
    assert not any(isinstance(m, nn.SiLU) for m in mine.modules())


def test_weights():
    assert count(CReToNeXt(48, 64, num_blocks=2)) == sum(
        [2 * 48 * 32, 2 * 2 * 9 * 32 * 32, 3 * 32 * 64, 2 * (2 * 32 + 4 * 32 + 64)]  # 1x1, blocks, 1x1, norms
    )


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(shallow_ratio=0.0), 'shallow_ratio=0.0 of CReToNeXt leaves 0 shallow and 8 deep of out_channels=8'),
        (dict(shallow_ratio=1.0), 'shallow_ratio=1.0 of CReToNeXt leaves 8 shallow and 0 deep of out_channels=8'),
        (dict(shallow_ratio=-0.5), 'shallow_ratio=-0.5 of CReToNeXt leaves -4 shallow and 12 deep of out_channels=8'),
        (dict(shallow_ratio='half'), "shallow_ratio='half' of CReToNeXt should be a number between 0 and 1"),
        (dict(num_blocks=0), 'num_blocks=0 of CReToNeXt should be a whole number from 1'),
        (dict(num_blocks=2.0), 'num_blocks=2.0 of CReToNeXt should be a whole number from 1'),
        (dict(num_blocks=True), 'num_blocks=True of CReToNeXt should be a whole number from 1'),
    ],
)
def test_what_it_refuses_is_one_sentence(options, message):
    with pytest.raises(ValueError) as caught:
        CReToNeXt(6, 8, **options)
    assert str(caught.value) == message

"""CSFPAFPN is MMYOLO's YOLOv8PAFPN but for the block at stride 8."""

import pytest
import torch
from torch import nn

from mmscale.csf_net import CReToNeXt
from mmscale.registry import HAS_MMYOLO

from ..yolo.small import ABSENT, SCALE, WIDTHS, build, count, maps, neck, stirred, weigh, without_gradient

if not HAS_MMYOLO:
    pytest.skip(ABSENT, allow_module_level=True)

OTHER = 'top_down_layers.1.'


def ours(**options):
    torch.manual_seed(0)
    return build(**neck('mmscale.CSFPAFPN', **options))


def plain(**options):
    torch.manual_seed(1)
    return build(**neck(**options))


def test_only_the_block_at_stride_8_differs():
    ours_, plain_ = (dict(module.named_parameters()) for module in (ours(), plain()))
    shapes = [
        {key: value.shape for key, value in each.items() if not key.startswith(OTHER)} for each in (ours_, plain_)
    ]
    assert shapes[0] == shapes[1] and len(shapes[0]) == 42
    assert type(ours().top_down_layers[1]) is CReToNeXt
    assert type(ours().top_down_layers[0]) is type(plain().top_down_layers[0])


@torch.no_grad()
def test_with_that_block_exchanged_it_is_the_plain_neck():
    a, b = stirred(ours()), stirred(plain(), seed=1)
    b.top_down_layers[1] = a.top_down_layers[1]
    b.load_state_dict(a.state_dict())
    for x, y in zip(a(maps()), b(maps()), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    'options, blocks, shallow',
    [
        (dict(), 2, 16),
        (dict(cretonext=dict(num_blocks=3)), 3, 16),
        (dict(cretonext=dict(shallow_ratio=0.25)), 2, 8),
        (dict(cretonext=dict(num_blocks=1, shallow_ratio=0.75)), 1, 24),
    ],
)
def test_widths_and_options_of_cretonext(options, blocks, shallow):
    """F4 and P3 come in, concatenated; the width of stride 8 leaves."""
    block = ours(**options).top_down_layers[1]
    assert len(block.blocks) == blocks
    assert block.shallow.conv.weight.shape[:2] == (shallow, 64 + 32)
    assert block.deep.conv.weight.shape[:2] == (32 - shallow, 64 + 32)
    assert block.fuse.conv.out_channels == 32


@pytest.mark.parametrize('widen', [1 / 16, 1 / 4])
def test_it_takes_every_scale(widen):
    widths = [int(width * widen) for width in (256, 512, 1024)]
    module = ours(widen_factor=widen)
    outs = module(maps(widths))
    assert [tuple(out.shape) for out in outs] == [tuple(x.shape) for x in maps(widths)]


@torch.no_grad()
@pytest.mark.parametrize('size', [(64, 96), (32, 160)], ids=str)
def test_shapes_and_images_on_their_own(size):
    module, x = stirred(ours()), maps(size=size)
    outs = module(x)
    assert [tuple(out.shape) for out in outs] == [tuple(level.shape) for level in x]
    alone = [module([level[i : i + 1] for level in x]) for i in range(2)]
    for out, *parts in zip(outs, *alone, strict=True):
        torch.testing.assert_close(out, torch.cat(parts), atol=1e-5, rtol=1e-5)


def test_every_weight_has_a_gradient():
    module = ours()
    weigh(module(maps())).backward()
    assert not without_gradient(module)


def test_every_convolution_starts_as_pytorchs():
    module = ours()
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7)
    module.init_weights()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.7 * bound < layer.weight.abs().max() <= bound * 1.0001


def test_norm_and_activation_are_the_users_in_every_layer():
    mine = ours(norm_cfg=dict(type='BN', eps=0.25), act_cfg=dict(type='ReLU'))
    assert {m.eps for m in mine.modules() if isinstance(m, nn.BatchNorm2d)} == {0.25}
    assert not any(isinstance(m, nn.SiLU) for m in mine.modules())


def test_the_cost_of_the_exchange_is_similar():
    """The paper: "at a similar computational cost"."""
    assert count(ours()) / count(plain()) == pytest.approx(1, abs=0.06)


def test_a_wrong_option_of_cretonext_is_one_sentence():
    with pytest.raises(ValueError, match='num_blocks=0 of CReToNeXt should be 1 or more'):
        ours(cretonext=dict(num_blocks=0))
    assert SCALE['widen_factor'] * 256 == WIDTHS[0]

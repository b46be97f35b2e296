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


def test_building_draws_nothing_but_its_own_weights(monkeypatch):
    """No C2f is built for its widths at stride 8."""
    from mmyolo.models.necks import yolov8_pafpn

    built = []
    kind = yolov8_pafpn.CSPLayerWithTwoConv
    monkeypatch.setattr(yolov8_pafpn, 'CSPLayerWithTwoConv', lambda *a, **k: built.append(a) or kind(*a, **k))
    ours()
    assert len(built) == 3  # stride 16 on the way down, 16 and 32 on the way up


# Errors ---------------------------------------------------------------------------------------------------------------

THREE = 'of CSFPAFPN should both name the three maps of the strides 8, 16 and 32'
ITS = 'but its in_channels at widen_factor=0.125 are [32, 64, 128]'
OPTIONS = (
    'its options are in_channels, out_channels, cretonext, deepen_factor, widen_factor, num_csp_blocks, freeze_all, '
    'norm_cfg, act_cfg, init_cfg'
)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(cretonext=dict(num_blocks=0)), 'num_blocks=0 of CReToNeXt should be a whole number from 1'),
        (dict(cretonext=dict(num_blocks=2.0)), 'num_blocks=2.0 of CReToNeXt should be a whole number from 1'),
        (
            dict(cretonext=dict(blocks=2)),
            'cretonext has no option blocks=2: its options are num_blocks, shallow_ratio',
        ),
        (dict(cretonext=dict(in_channels=8)), 'cretonext.in_channels=8 cannot be set: CSFPAFPN sets it'),
        (dict(cretonext=2), 'cretonext=2 of CSFPAFPN should be a dict of options'),
        (dict(creto_next=dict(num_blocks=2)), f"CSFPAFPN has no option creto_next={{'num_blocks': 2}}: {OPTIONS}"),
        (
            dict(in_channels=[256, 512, 1024, 1024], out_channels=[256, 512, 1024, 1024]),
            f'in_channels=[256, 512, 1024, 1024] and out_channels=[256, 512, 1024, 1024] {THREE}',
        ),
        (dict(in_channels=256), f'in_channels=256 and out_channels=[256, 512, 1024] {THREE}'),
        (dict(out_channels=256), f'in_channels=[256, 512, 1024] and out_channels=256 {THREE}'),
        (
            dict(out_channels=[128, 256, 512]),
            "out_channels=[128, 256, 512] of CSFPAFPN should equal in_channels=[256, 512, 1024]: YOLOv8's neck has one "
            'width per level',
        ),
        (
            dict(widen_factor=0.3),
            'widen_factor=0.3 of CSFPAFPN should make multiples of 8 of in_channels=[256, 512, 1024]',
        ),
    ],
)
def test_what_it_refuses_is_one_sentence(options, message):
    with pytest.raises(ValueError) as caught:
        ours(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    'widths, message',
    [
        ([48, 96, 192], f'maps with [48, 96, 192] channels, {ITS}'),
        ([32, 64, 96], f'maps with [32, 64, 96] channels, {ITS}'),
        ([32, 64], '2 maps, but was built for 3'),
        ([16, 32, 64, 128], '4 maps, but was built for 3'),
    ],
)
def test_a_backbone_of_other_maps_is_one_sentence(widths, message):
    x = [torch.rand(1, width, 32 >> place, 32 >> place) for place, width in enumerate(widths)]
    with pytest.raises(ValueError) as caught:
        ours()(x)
    assert str(caught.value) == f'CSFPAFPN got {message}'


def test_it_returns_itself_in_either_mode():
    """MMYOLO's necks return None."""
    module = ours()
    assert module.eval() is module and not module.training
    assert module.train() is module and module.training


def test_the_configs_widths_are_the_small_ones():
    assert SCALE['widen_factor'] * 256 == WIDTHS[0]

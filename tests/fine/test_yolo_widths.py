"""How FINE's YOLO necks know their widths, what they say of widths that do not fit, and a neck's own faults."""

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from mmscale.registry import HAS_MMYOLO

from ..yolo.small import ABSENT, SCALE, build, maps, neck, stirred

if not HAS_MMYOLO:
    pytest.skip(ABSENT, allow_module_level=True)

from mmyolo.models import necks

from mmscale.fine.yolo_necks import FINEYOLOMixin, FINEYOLOv6RepBiPAFPN
from mmscale.yolo.api import YOLOv8PAFPN

WIDTHS = [256, 512, 1024]
BI = dict(in_channels=[128, *WIDTHS], out_channels=[128, 256, 512])


def refused(build_neck, **options):
    with pytest.raises(ValueError) as caught:
        build_neck(**options)
    return str(caught.value)


def fine(type, **options):
    return build(**neck(f'mmscale.{type}', **options))


# Widths ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'type, options, widths',
    [
        ('FINEYOLOv5PAFPN', dict(), [32, 64, 128]),
        ('FINEYOLOv8PAFPN', dict(widen_factor=3 / 64), [16, 24, 48]),
        ('FINEYOLOv6RepPAFPN', dict(widen_factor=3 / 64, out_channels=[128, 256, 512]), [12, 24, 48]),
        ('FINEYOLOv6RepBiPAFPN', dict(**BI, widen_factor=3 / 64), [6, 12, 24, 48]),
        ('FINEYOLOv10PAFPN', dict(), [32, 64, 128]),
        ('FINEYOLOv12PAFPN', dict(in_channels=[512, 512, 1024]), [64, 64, 128]),
    ],
)
def test_a_neck_says_its_widths(type, options, widths):
    assert fine(type, **options, fine=dict(num_heads=1)).input_widths == widths


@pytest.mark.parametrize('levels', [2, 4])
def test_another_number_of_levels(levels):
    """YOLOv8's neck takes them."""
    widths = [128, 256, 512, 1024][-levels:]
    module = fine('FINEYOLOv8PAFPN', in_channels=widths, out_channels=widths)
    x = maps([width // 8 for width in widths], strides=[32 >> place for place in reversed(range(levels))])
    assert [out.shape for out in module(x)] == [level.shape for level in x]
    assert set(module.fine) == {str(level) for level in range(levels - 1)[-2:]}


@pytest.mark.parametrize(
    'type, options, message',
    [
        (
            'FINEYOLOv8PAFPN',
            dict(in_channels=[256, 512, 512], out_channels=WIDTHS, widen_factor=0.25),
            'in_channels=[256, 512, 512], out_channels=[256, 512, 1024], widen_factor=0.25 of FINEYOLOv8PAFPN do not '
            "fit together: with maps of [64, 128, 128] channels, its layer 'bottom_up_layers.1.main_conv.conv' has "
            'weights for 384 channels, but gets 256',
        ),
        (
            'FINEYOLOv8PAFPN',
            dict(widen_factor=0.3),
            'in_channels=[256, 512, 1024], out_channels=[256, 512, 1024], widen_factor=0.3 of FINEYOLOv8PAFPN do not '
            "fit together: with maps of [80, 160, 312] channels, its layer 'top_down_layers.0.main_conv.conv' has "
            'weights for 464 channels, but gets 472',
        ),
        (
            'FINEYOLOv6RepPAFPN',
            dict(in_channels=[128, *WIDTHS], out_channels=[128, *WIDTHS]),
            'FINEYOLOv6RepPAFPN has no blocks for 4 maps: in_channels=[128, 256, 512, 1024]',
        ),
        (
            'FINEYOLOv8PAFPN',
            dict(in_channels=[128, *WIDTHS]),
            'out_channels=[256, 512, 1024] of FINEYOLOv8PAFPN should have 4 widths for '
            'in_channels=[128, 256, 512, 1024]',
        ),
        (
            'FINEYOLOv6RepBiPAFPN',
            dict(out_channels=[128, 256, 512]),
            'out_channels=[128, 256, 512] of FINEYOLOv6RepBiPAFPN should have 2 widths for '
            'in_channels=[256, 512, 1024]',
        ),
        ('FINEYOLOv5PAFPN', dict(in_channels=256), 'in_channels=256 of FINEYOLOv5PAFPN should be a list of widths'),
    ],
)
def test_widths_that_do_not_fit_are_one_sentence(type, options, message):
    assert refused(fine, type=type, **options) == message


@pytest.mark.parametrize('place', range(3))
def test_a_backbone_of_other_widths_is_one_sentence(place):
    widths = [32, 64, 128]
    widths[place] += 16
    with pytest.raises(ValueError) as caught:
        fine('FINEYOLOv8PAFPN')(maps(widths))
    assert str(caught.value) == (
        f'FINEYOLOv8PAFPN got maps with {widths} channels, but its in_channels at widen_factor=0.125 are [32, 64, 128]'
    )


@pytest.mark.parametrize('type', ['FINEYOLOv8PAFPN', 'FINEYOLOv10PAFPN'])
def test_it_returns_itself_in_either_mode(type):
    """MMYOLO's necks return None."""
    module = fine(type)
    assert module.eval() is module and not module.training
    assert module.train() is module and module.training


# Necks of a user's own ------------------------------------------------------------------------------------------------


class Cut(YOLOv8PAFPN):
    """Rounds down, and does not say so."""

    def __init__(self, *args, widen_factor=1.0, **kwargs):
        self.scale = widen_factor
        super().__init__(*args, widen_factor=1.0, **kwargs)
        self.widen_factor = widen_factor

    def _widths(self, idx):
        return int(self.in_channels[idx] * self.scale)

    def build_top_down_layer(self, idx):
        return nn.Conv2d(self._widths(idx) + self._widths(idx - 1), self._widths(idx - 1), 1)

    def build_downsample_layer(self, idx):
        return nn.Conv2d(self._widths(idx), self._widths(idx), 3, stride=2, padding=1)

    def build_bottom_up_layer(self, idx):
        return nn.Conv2d(self._widths(idx) + self._widths(idx + 1), self._widths(idx + 1), 1)


class FINECut(FINEYOLOMixin, Cut):
    """Two lines."""


class Broken(YOLOv8PAFPN):
    """A fault of its own, whatever the widths."""

    def build_upsample_layer(self, *args, **kwargs):
        return nn.Flatten()


class FINEBroken(FINEYOLOMixin, Broken):
    """Two lines."""


def test_widths_that_nobody_says_are_found_by_trial():
    module = FINECut(WIDTHS, WIDTHS, widen_factor=3 / 64, fine=dict(num_heads=1))
    assert module.input_widths == [12, 24, 48]
    assert len(module(maps([12, 24, 48]))) == 3


def test_told_widths_are_believed():
    class Told(FINECut):
        def told_widths(self):
            return [16, 24, 48]

    said = refused(Told, in_channels=WIDTHS, out_channels=WIDTHS, widen_factor=3 / 64)
    assert said.startswith('in_channels=[256, 512, 1024], out_channels=[256, 512, 1024], widen_factor=0.046875 of Told')
    assert 'with maps of [16, 24, 48] channels, its layer ' in said


def test_no_trial_is_reported_but_the_first():
    class Never(FINECut):
        def build_bottom_up_layer(self, idx):
            return nn.Conv2d(7, 7, 1)

    said = refused(Never, in_channels=WIDTHS, out_channels=WIDTHS, widen_factor=3 / 64)
    assert 'do not fit together: with maps of [16, 24, 48] channels, its layer ' in said


@pytest.mark.parametrize('widen_factor', [1 / 8, 1.0])
def test_a_necks_own_fault_is_shown_as_it_is(widen_factor):
    with pytest.raises(RuntimeError, match='Tensors must have same number of dimensions') as caught:
        FINEBroken(WIDTHS, WIDTHS, widen_factor=widen_factor)
    assert not isinstance(caught.value, ValueError) and caught.value.__context__ is None


@torch.no_grad()
def test_a_child_of_bifusions_neck():
    """YOLOv6 3.0's larger scales have it in MMYOLO."""
    cls = type('FINEYOLOv6CSPRepBiPAFPN', (FINEYOLOv6RepBiPAFPN, necks.YOLOv6CSPRepBiPAFPN), {})
    mine = stirred(cls(**BI, **SCALE, fine_levels=[]))
    with DefaultScope.overwrite_default_scope('mmyolo'):
        theirs = stirred(necks.YOLOv6CSPRepBiPAFPN(**BI, **SCALE))
    theirs.load_state_dict(mine.state_dict())
    x = maps([16, 32, 64, 128], strides=(4, 8, 16, 32))
    for a, b in zip(mine(x), theirs(x), strict=True):
        assert torch.equal(a, b)

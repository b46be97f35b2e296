import pytest
import torch
from mmdet.models.necks import FPN
from mmengine.registry import init_default_scope

from mmscale.layers import TopDownFPN

WIDTHS, SIZES = [16, 24, 32, 48], [(24, 33), (12, 17), (6, 9), (3, 5)]


def maps():
    torch.manual_seed(0)
    return tuple(torch.randn(1, c, *size) for c, size in zip(WIDTHS, SIZES, strict=True))


def neck(cls=TopDownFPN, **options):
    return cls(**{'in_channels': WIDTHS, 'out_channels': 8, 'num_outs': 5, **options})


@pytest.mark.parametrize(
    'form',
    [
        dict(),
        dict(num_outs=4),
        dict(start_level=1, add_extra_convs='on_input'),
        dict(start_level=1, add_extra_convs='on_output', relu_before_extra_convs=True),
        dict(start_level=2, add_extra_convs='on_lateral'),
        dict(start_level=1, end_level=2, num_outs=2),
        dict(upsample_cfg=dict(mode='bilinear', align_corners=False)),
        dict(norm_cfg=dict(type='GN', num_groups=4), act_cfg=dict(type='ReLU'), no_norm_on_lateral=True),
    ],
    ids=str,
)
def test_it_is_mmdetections_fpn(form):
    init_default_scope('mmdet')
    ours, theirs = neck(**form), neck(FPN, **form)
    theirs.load_state_dict(ours.state_dict())
    for a, b in zip(ours(maps()), theirs(maps()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_levels_are_named_by_their_place():
    assert neck().levels == [0, 1, 2, 3] and neck().fusions == [0, 1, 2]
    module = neck(start_level=1, end_level=2, num_outs=2)
    assert module.levels == [1, 2] and module.fusions == [1]


def test_a_method_replaces_one_step():
    class Difference(TopDownFPN):
        def _fuse(self, level, low, high):
            return low - self._upsample(high, low)

    minus, plus = neck(Difference, num_outs=4), neck(num_outs=4)
    minus.load_state_dict(plus.state_dict())
    with torch.no_grad():
        plus.lateral_convs[3].conv.weight.neg_()
        plus.lateral_convs[3].conv.bias.neg_()
    torch.testing.assert_close(minus(maps())[2], plus(maps())[2])


def test_a_wrong_argument_is_told_in_the_name_of_the_class():
    class Named(TopDownFPN):
        def __init__(self, *args, extra=None, **kwargs):
            super().__init__(*args, **kwargs)

    with pytest.raises(ValueError, match='^Named has no option strides=2: its options are extra, in_channels'):
        neck(Named, strides=2)
    with pytest.raises(ValueError, match='^Named needs out_channels, num_outs$'):
        Named(WIDTHS)
    with pytest.raises(ValueError, match='^Named takes 13 positional arguments, those of FPN, but got 14$'):
        Named(*range(14))
    with pytest.raises(ValueError, match=r'with \[16, 24\] channels, but in_channels=\[16, 24, 32, 48\]'):
        neck(Named)(maps()[:2])

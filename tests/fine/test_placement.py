"""Which levels FINE aligns, and with which kernels: what is no list, in every neck that takes them."""

import pytest

from mmscale.fine import FINEFPN, FINEHybridEncoder
from mmscale.registry import HAS_MMYOLO

from ..yolo.small import build
from ..yolo.small import neck as yolo_neck

WIDTHS = [16, 32, 64]
NECKS = {
    'FPN': lambda **options: FINEFPN(WIDTHS, out_channels=32, num_outs=3, **options),
    'encoder': lambda **options: FINEHybridEncoder(WIDTHS, out_channels=32, aifi=None, **options),
}
if HAS_MMYOLO:
    NECKS['YOLOv8'] = lambda **options: build(**yolo_neck('mmscale.FINEYOLOv8PAFPN', **options))


@pytest.mark.parametrize('build_neck', NECKS.values(), ids=NECKS)
@pytest.mark.parametrize(
    'options, message',
    [
        (dict(fine_levels=1), 'fine_levels=1 should be a list of whole numbers'),
        (dict(fine_levels='P3'), "fine_levels='P3' should be a list of whole numbers"),
        (dict(fine_levels=['P3']), "fine_levels=['P3'] should be a list of whole numbers"),
        (dict(fine_levels=[True]), 'fine_levels=[True] should be a list of whole numbers'),
        (dict(fine_levels=[0.0, 1.0]), 'fine_levels=[0.0, 1.0] should be a list of whole numbers'),
        (dict(fine_kernels=3), 'fine_kernels=3 should be a list of whole numbers'),
        (dict(fine_kernels=[2, True]), 'fine_kernels=[2, True] should be a list of whole numbers'),
        (dict(fine_kernels='12'), "fine_kernels='12' should be a list of whole numbers"),
        (dict(fine=[]), 'fine=[] should be a dict of options'),
        (dict(fine='avg'), "fine='avg' should be a dict of options"),
        (dict(fine=False), 'fine=False should be a dict of options'),
    ],
)
def test_what_is_no_list_is_one_sentence(build_neck, options, message):
    with pytest.raises(ValueError) as caught:
        build_neck(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize('build_neck', NECKS.values(), ids=NECKS)
@pytest.mark.parametrize(
    'options, levels',
    [
        (dict(), {'0', '1'}),
        (dict(fine={}), {'0', '1'}),
        (dict(fine_levels=(1,)), {'1'}),
        (dict(fine_levels=range(2)), {'0', '1'}),
        (dict(fine_levels=[]), set()),
    ],
)
def test_lists_of_any_kind_are_taken(build_neck, options, levels):
    assert set(build_neck(**options).fine) == levels

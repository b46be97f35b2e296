import math

import pytest
import torch
from torch import nn

from mmscale.rivals import CFAM


def test_numbers_by_hand():
    """Two maps of one channel with means 1 and 3: the hidden unit sees both, 1 * 1 + 2 * 3 = 7."""
    module = CFAM([1, 1], out_channels=None, reduction=2)
    w1, _, w2, _ = module.excitation
    with torch.no_grad():
        w1.weight.copy_(torch.tensor([[1.0, 2.0]]))
        w2.weight.copy_(torch.tensor([[0.1], [-0.1]]))
    fine, coarse = torch.tensor([[0.0, 2.0]])[None, None], torch.tensor([[3.0]])[None, None]
    outs = module([fine, coarse])
    torch.testing.assert_close(outs[0], fine / (1 + math.exp(-0.7)))
    torch.testing.assert_close(outs[1], coarse / (1 + math.exp(0.7)))


def test_the_formula_in_loops():
    torch.manual_seed(0)
    widths, sizes, batch = [3, 5, 4], [(4, 3), (2, 2), (1, 1)], 2
    module = CFAM(widths, out_channels=4, reduction=3)
    inputs = [torch.randn(batch, c, *s) for c, s in zip(widths, sizes, strict=True)]
    w1, w2 = module.excitation[0].weight, module.excitation[2].weight
    outs = module(inputs)
    for b in range(batch):
        maps, z = [], []
        for conv, x in zip(module.convs, inputs, strict=True):
            planes = [sum(w * p for w, p in zip(row, x[b])) + o for row, o in zip(conv.weight[:, :, 0, 0], conv.bias)]  # noqa: B905
            maps.append(planes)
            z.extend(plane.sum() / plane.numel() for plane in planes)
        hidden = [max(sum(w * v for w, v in zip(row, z, strict=True)), torch.zeros(())) for row in w1]
        share = [1 / (1 + torch.exp(-sum(w * h for w, h in zip(row, hidden, strict=True)))) for row in w2]
        for level, planes in enumerate(maps):
            expected = torch.stack([plane * share[4 * level + c] for c, plane in enumerate(planes)])
            torch.testing.assert_close(outs[level][b], expected, rtol=1e-5, atol=1e-5)


def test_every_level_sees_every_other():
    torch.manual_seed(0)
    module = CFAM([4, 6, 8], out_channels=8, reduction=2)
    inputs = [torch.randn(1, c, s, s) for c, s in zip([4, 6, 8], [5, 3, 1], strict=True)]
    before = module(inputs)
    for level in range(3):
        changed = list(inputs)
        changed[level] = changed[level] + 1
        assert all((a != b).any() for a, b in zip(before, module(changed), strict=True))


def test_own_widths_stay():
    module = CFAM([4, 8], out_channels=None, reduction=4)
    outs = module([torch.rand(2, 4, 3, 5), torch.rand(2, 8, 1, 1)])
    assert [tuple(x.shape) for x in outs] == [(2, 4, 3, 5), (2, 8, 1, 1)]
    assert [tuple(p.shape) for p in module.parameters()] == [(3, 12), (12, 3)]


def test_the_head_of_ssd_takes_its_width():
    """1x1 convolutions and attention of 1.0173 M against 1.6128 M fewer in SSDHead, counted with 20 classes."""
    widths, anchors = [512, 1024, 512, 256, 256, 256], [4, 6, 6, 6, 4, 4]
    per_width = [9 * n * (4 + 21) for n in anchors]
    saved = sum((c - 256) * p for c, p in zip(widths, per_width, strict=True))
    assert saved == 230_400 + 1_036_800 + 345_600
    added = 256 * sum(widths) + 6 * 256 + 2 * 1536 * 96
    assert sum(p.numel() for p in CFAM(widths).parameters()) == added == 1_017_344
    assert 26.285 + (added - saved) / 1e6 == pytest.approx(25.69, abs=0.005)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(in_channels=[]), r'in_channels=\[\] of CFAM names no map'),
        (dict(out_channels=0), 'out_channels=0 of CFAM should be a whole number from 1, or None'),
        (dict(reduction=33), 'reduction=33 should be a whole number from 1 to 32'),
    ],
)
def test_bad_config_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        CFAM(**{**dict(in_channels=[4, 8], out_channels=16), **options})
    assert '\n' not in str(caught.value)


def test_initialisation_reaches_all_weights():
    """Xavier's uniform one: none is beyond sqrt(6 / (in + out))."""
    torch.manual_seed(0)
    module = CFAM([64, 32], out_channels=32, reduction=4)
    module.init_weights()
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            bound = math.sqrt(6 / sum(layer.weight.shape[:2]))
            assert 0.9 * bound < layer.weight.abs().max() <= bound

import pytest
import torch
import torch.nn.functional as F

from mmscale.rivals.fapn import FeatureAlignment, FeatureSelection

from .pyramid import stirred


def test_selection_by_hand():
    """Two channels with means 2 and 0, weights that pass them on: 1 + sigmoid(2) and 1 + sigmoid(0) times the input."""
    conv = torch.nn.Conv2d(2, 2, 1, bias=False)
    module = FeatureSelection(2, conv)
    with torch.no_grad():
        for weight in (conv.weight, module.gate.conv.weight):
            weight.copy_(torch.eye(2)[:, :, None, None])
    x = torch.tensor([[[1.0, 3]], [[5, -5]]])[None]
    gates = torch.tensor([0.8807971, 0.5])
    torch.testing.assert_close(module(x), x * (1 + gates)[:, None, None])


def test_zero_offsets_make_it_half_a_convolution():
    """The start of training: a mask of one half on every tap, and ReLU."""
    torch.manual_seed(0)
    for groups in (1, 4):
        module = FeatureAlignment(16, deform_groups=2, groups=groups)
        low, high = torch.randn(2, 16, 7, 9), torch.randn(2, 16, 7, 9)
        plain = F.conv2d(high, module.conv.weight / 2, module.conv.bias, padding=1, groups=groups)
        torch.testing.assert_close(module(low, high), F.relu(plain))


def test_a_common_offset_shifts_the_map():
    """Tap by tap one pixel to the right (x) and two up (y), mask 1: the convolution of the shifted map."""
    torch.manual_seed(0)
    module = FeatureAlignment(8, deform_groups=2)
    with torch.no_grad():
        pairs = module.offset.bias[: 2 * 2 * 9].view(2, 9, 2)  # y and x of a tap, as MMCV orders them
        pairs[..., 0], pairs[..., 1] = -2, 1
        module.offset.bias[2 * 2 * 9 :] = 100
    high = torch.randn(1, 8, 10, 12)
    shifted = F.conv2d(high, module.conv.weight, padding=1).roll((2, -1), (2, 3))
    inner = (..., slice(4, -2), slice(2, -3))
    torch.testing.assert_close(module(torch.randn(1, 8, 10, 12), high)[inner], F.relu(shifted)[inner])


def bilinear(x, row, col):
    """x, ``(C, H, W)``, between its pixels; zero outside."""
    total = 0
    for i in (row.floor(), row.floor() + 1):
        for j in (col.floor(), col.floor() + 1):
            if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]:
                total = total + (1 - (row - i).abs()) * (1 - (col - j).abs()) * x[:, int(i), int(j)]
    return total


def literal(module, low, high):
    """FAM, one image, one pixel, one group of offsets, one tap at a time."""
    weight, groups, parts = module.conv.weight, module.conv.groups, module.conv.deform_groups
    channels, height, width = high.shape[1:]
    images = []
    for image in range(len(high)):
        both = torch.cat((low[image], 2 * high[image]))[None]
        raw = F.conv2d(
            F.conv2d(both, module.difference.conv.weight), module.offset.weight, module.offset.bias, padding=1
        )[0]
        offset, mask = raw[: 2 * parts * 9].reshape(parts, 9, 2, height, width), raw[2 * parts * 9 :].sigmoid()
        mask = mask.reshape(parts, 9, height, width)
        pixels = []
        for i in range(height):
            for j in range(width):
                taps = []
                for tap in range(9):
                    samples = []
                    for part, x in enumerate(high[image].chunk(parts)):
                        y_x = offset[part, tap, :, i, j]
                        sample = bilinear(x, i - 1 + tap // 3 + y_x[0], j - 1 + tap % 3 + y_x[1])
                        samples.append(mask[part, tap, i, j] * (sample + torch.zeros(channels // parts)))
                    taps.append(torch.cat(samples))
                columns = torch.stack(taps, dim=-1).chunk(groups)  # (C / groups, 9)
                out = [
                    torch.einsum('ocn,cn->o', w.flatten(2), c)
                    for w, c in zip(weight.chunk(groups), columns, strict=True)
                ]
                pixels.append(torch.cat(out) + module.conv.bias)
        images.append(torch.stack(pixels, dim=-1).reshape(-1, height, width))
    return torch.stack(images).relu()


@pytest.mark.parametrize('groups', [1, 2])
def test_alignment_is_the_literal_one_gradients_too(groups):
    module = stirred(FeatureAlignment(4, deform_groups=2, groups=groups))
    results = []
    for forward in (module, lambda low, high: literal(module, low, high)):
        torch.manual_seed(0)
        low, high = (torch.randn(2, 4, 3, 4, requires_grad=True) for _ in range(2))
        module.zero_grad()
        out = forward(low, high)
        (out * torch.randn_like(out)).sum().backward()
        results.append([out, low.grad, high.grad, *(p.grad.clone() for p in module.parameters())])
    assert (results[0][0] > 0).float().mean() > 0.1, 'ReLU hides the comparison'
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def test_memory_layout_does_not_matter():
    """MMCV's kernel takes any map for a contiguous one; an encoder's attention leaves channels-last ones."""
    module = stirred(FeatureAlignment(16, deform_groups=2), 0.1)
    low, high = torch.randn(2, 16, 5, 6), torch.randn(2, 16, 5, 6)
    expected = module(low, high)
    last = dict(memory_format=torch.channels_last)
    for inputs in ((low, high.to(**last)), (low.to(**last), high), (low.to(**last), high.to(**last))):
        torch.testing.assert_close(module(*inputs), expected)

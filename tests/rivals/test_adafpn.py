import pytest
import torch
import torch.nn.functional as F

from mmscale.rivals.adafpn import AdaptiveFusion, AdaptiveUpsampling, sample_mean

from .pyramid import stirred


@pytest.mark.parametrize('size', [(6, 10), (7, 9), (3, 5)])
def test_zero_offsets_are_bilinear_upsampling(size):
    values = torch.randn(2, 3, 3, 5, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(values, size=size, mode='bilinear', align_corners=False)
    torch.testing.assert_close(sample_mean(values, torch.zeros(2, 8, *size)), expected)


def test_samples_by_hand():
    """A row 0, 4, 8, 12 at the same size; points one pixel left and half a pixel right of the centre."""
    values = torch.tensor([0.0, 4, 8, 12]).reshape(1, 1, 1, 4)
    offsets = torch.zeros(1, 4, 1, 4)
    offsets[:, 0], offsets[:, 2] = -1, 0.5  # x of the first and of the second point
    left, right = [0, 0, 4, 8], [2, 6, 10, 12]
    mean = [(a + b) / 2 for a, b in zip(left, right, strict=True)]
    torch.testing.assert_close(sample_mean(values, offsets)[0, 0, 0], torch.tensor(mean))


def literal(values, offsets):
    """One pixel, one point at a time, between the four pixels around the point; borders continue."""
    height, width = offsets.shape[-2:]
    rows, cols = values.shape[-2:]
    out = []
    for image in range(len(values)):
        for i in range(height):
            for j in range(width):
                total = 0
                for x, y in offsets[image, :, i, j].reshape(-1, 2):
                    row = ((i + 0.5 + y) * rows / height - 0.5).clamp(0, rows - 1)
                    col = ((j + 0.5 + x) * cols / width - 0.5).clamp(0, cols - 1)
                    for r in (int(row), min(int(row) + 1, rows - 1)):
                        for c in (int(col), min(int(col) + 1, cols - 1)):
                            total = total + (1 - (row - r).abs()) * (1 - (col - c).abs()) * values[image, :, r, c]
                out.append(total / (offsets.shape[1] // 2))
    return torch.stack(out, dim=-1).reshape(values.shape[1], len(values), height, width).transpose(0, 1)


def test_sampling_is_the_literal_one_gradients_too():
    results = []
    for forward in (sample_mean, literal):
        torch.manual_seed(0)
        values = torch.randn(2, 3, 5, 6, requires_grad=True)
        offsets = (0.8 * torch.rand(2, 6, 9, 11)).requires_grad_()
        inner = forward(values, offsets)[..., 1:-2, 1:-2]  # at the border the clamped neighbours coincide
        (inner * torch.randn(inner.shape)).sum().backward()
        results.append([inner, values.grad, offsets.grad])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def gradients_of_the_points(radius):
    torch.manual_seed(0)
    module = AdaptiveUpsampling(8, points=4, radius=radius)
    out = module(torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4))
    (out * torch.randn_like(out)).sum().backward()
    return module.offset.weight.grad.reshape(4, -1)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_moves_no_point(dtype):
    """On a wide map, where a rounded coordinate is off by a good part of a pixel."""
    values, offsets = torch.randn(1, 2, 4, 100).to(dtype), torch.randn(1, 8, 8, 200).to(dtype)
    sampled = sample_mean(values, offsets)
    assert sampled.dtype is dtype
    torch.testing.assert_close(sampled, sample_mean(values.float(), offsets.float()).to(dtype))


def test_points_on_a_ring_learn_apart():
    """At one place they would get one gradient, and stay together."""
    together, ring = gradients_of_the_points(0.0), gradients_of_the_points(0.5)
    assert all(torch.allclose(together[0], other) for other in together[1:])
    assert not any(torch.allclose(ring[0], other) for other in ring[1:])


def test_a_single_point_starts_at_the_centre():
    assert (AdaptiveUpsampling(8, points=1).offset.bias == 0).all()


def test_upsampling_at_the_start():
    """Four samples half a pixel away on the diagonals of a fine pixel, of the convolved high level."""
    torch.manual_seed(0)
    module = AdaptiveUpsampling(8)
    low, high = torch.randn(1, 8, 8, 10), torch.randn(1, 8, 4, 5)
    corners = [(-1, -1), (1, -1), (-1, 1), (1, 1)]
    offsets = torch.tensor(corners).flatten()[None, :, None, None] * 0.5**1.5
    expected = sample_mean(module.value(high), offsets.expand(1, 8, 8, 10))
    torch.testing.assert_close(module(low, high), expected)


def test_fusion_by_hand():
    """Layers that pass nothing on: the weights are the sigmoids of the last bias, 0.75 of high and 0.5 of low."""
    module = AdaptiveFusion(16)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.layers[-1].bias.copy_(torch.tensor([3.0, 1.0]).log())
    low, high = torch.full((1, 16, 2, 3), 8.0), torch.full((1, 16, 2, 3), 4.0)
    torch.testing.assert_close(module(low, high), torch.full((1, 16, 2, 3), 7.0))


def test_fusion_weighs_each_pixel_by_both_levels():
    module = stirred(AdaptiveFusion(16), 0.1)
    low, high = (x.requires_grad_() for x in torch.randn(2, 1, 16, 5, 5))
    out = module(low, high)
    parts = torch.linalg.lstsq(
        torch.stack((low, high), dim=-1)[0, :, 2, 2], out[0, :, 2, 2, None]
    ).solution  # a and b of one pixel from its 16 channels
    assert ((parts > 0) & (parts < 1)).all()
    torch.testing.assert_close(torch.stack((low, high), dim=-1)[0, :, 2, 2] @ parts, out[0, :, 2, 2, None])

import copy

import pytest
import torch

from mmscale.fine import (
    AreaCrossLevelAttention,
    CrossLevelAttention,
    LinearCrossLevelAttention,
    WindowCrossLevelAttention,
)
from mmscale.layers import reparameterize

from . import literal

VARIANTS = [CrossLevelAttention, WindowCrossLevelAttention, AreaCrossLevelAttention, LinearCrossLevelAttention]


def maps(low=(6, 8), high=(3, 4), channels=32, batch=2):
    torch.manual_seed(0)
    return torch.randn(batch, channels, *low), torch.randn(batch, channels, *high)


@pytest.mark.parametrize('projections', ['single', 'double', 'feedforward'])
@pytest.mark.parametrize('num_heads', [1, 2, 32])
def test_equals_the_literal_form(projections, num_heads):
    module = CrossLevelAttention(32, num_heads, projections)
    low, high = maps((3, 2), (2, 3))
    torch.testing.assert_close(module(low, high), literal.attention(module, low, high), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('projections, squares, biases', [('single', 4, 4), ('double', 8, 8), ('feedforward', 8, 7)])
def test_weights_are_4_or_8_c_squared(projections, squares, biases):
    module = CrossLevelAttention(256, projections=projections)
    assert sum(p.numel() for name, p in module.named_parameters() if name.endswith('weight')) == squares * 256**2
    assert sum(p.numel() for name, p in module.named_parameters() if name.endswith('bias')) == biases * 256


def test_default_heads_are_16_wide():
    assert CrossLevelAttention(256).num_heads == 16
    assert CrossLevelAttention(48).num_heads == 3


@pytest.mark.parametrize('variant', [CrossLevelAttention, LinearCrossLevelAttention])
def test_order_of_keys_does_not_matter(variant):
    module = variant(32)
    low, high = maps()
    shuffled = high.flatten(2)[..., torch.randperm(12)].reshape(high.shape)
    torch.testing.assert_close(module(low, shuffled), module(low, high))


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('low, high', [((6, 8), (3, 4)), ((50, 67), (25, 34)), ((5, 3), (3, 2)), ((4, 4), (4, 4))])
def test_shape_and_every_gradient(variant, low, high):
    module = variant(32)
    low, high = maps(low, high)
    out = module(low, high)
    assert out.shape == low.shape
    out.square().sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and (p.grad != 0).any()
        for name, p in module.named_parameters()
        if not _key_bias(name)
    )


def _key_bias(name):
    """A key bias adds the same score to every key of a query, which the softmax removes."""
    return name.startswith('key') and name.endswith('bias')


@pytest.mark.parametrize('variant', VARIANTS)
def test_runs_in_half_precision_weights(variant):
    module = variant(32)
    low, high = maps()
    half = copy.deepcopy(module).bfloat16()(low.bfloat16(), high.bfloat16())
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), module(low, high), rtol=0.1, atol=0.1)


@pytest.mark.parametrize('variant', VARIANTS)
def test_batch_of_two_is_two_batches_of_one(variant):
    module = variant(32)
    low, high = maps((14, 10), (7, 5))
    single = torch.cat([module(low[i : i + 1], high[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(module(low, high), single)


def test_one_window_or_area_over_the_whole_map_is_plain_attention():
    low, high = maps()
    plain = CrossLevelAttention(32)
    for regional in (WindowCrossLevelAttention(32, window_size=9), AreaCrossLevelAttention(32, num_areas=1)):
        regional.load_state_dict(plain.state_dict())
        torch.testing.assert_close(regional(low, high), plain(low, high))


@pytest.mark.parametrize('low_size, high_size', [((8, 8), (4, 4)), ((9, 7), (5, 4))])
def test_window_is_plain_attention_of_each_region(low_size, high_size):
    plain, windows = CrossLevelAttention(32), WindowCrossLevelAttention(32, window_size=2)
    windows.load_state_dict(plain.state_dict())
    low, high = maps(low_size, high_size)
    expected = torch.zeros_like(low)
    for i in range(0, high_size[0], 2):
        for j in range(0, high_size[1], 2):
            region = low[..., 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
            expected[..., 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] = plain(region, high[..., i : i + 2, j : j + 2])
    torch.testing.assert_close(windows(low, high), expected)


def test_area_is_plain_attention_of_each_stripe():
    plain, areas = CrossLevelAttention(32), AreaCrossLevelAttention(32, num_areas=4)
    areas.load_state_dict(plain.state_dict())
    low, high = maps((12, 6), (6, 3))  # stripes of 2 keys' rows, 4 queries' rows: three of them
    expected = torch.cat([plain(low[:, :, 4 * i : 4 * i + 4], high[:, :, 2 * i : 2 * i + 2]) for i in range(3)], dim=2)
    torch.testing.assert_close(areas(low, high), expected)


def test_linear_attention_equals_its_quadratic_form():
    module = LinearCrossLevelAttention(32, num_heads=2, projections='single')
    low, high = maps(batch=1)
    query, key, value = (
        layer(x.flatten(2).transpose(1, 2))[0]
        for layer, x in ((module.query, low), (module.key, high), (module.value, high))
    )
    heads = []
    for part in (slice(0, 16), slice(16, 32)):
        q = query[:, part] / query[:, part].abs().sum(0)
        k = key[:, part] / key[:, part].abs().sum(0)
        heads.append((q @ k.T) @ value[:, part])
    expected = module.out(torch.cat(heads, dim=-1)).T.reshape(low.shape)
    torch.testing.assert_close(module(low, high), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'variant, options, message',
    [
        (CrossLevelAttention, dict(num_heads=7), r'num_heads=7 does not divide channels=32: choose one of \[1, 2, 4'),
        (CrossLevelAttention, dict(channels=24), r'channels=24 is not a multiple of 16.*num_heads, one of \[1, 2, 3'),
        (CrossLevelAttention, dict(projections='triple'), r"projections='triple' is unknown: choose one of \['double'"),
        (WindowCrossLevelAttention, dict(window_size=0), 'window_size=0 must be at least 1'),
        (AreaCrossLevelAttention, dict(num_areas=0), 'num_areas=0 must be at least 1'),
    ],
)
def test_bad_options(variant, options, message):
    with pytest.raises(ValueError, match=message):
        variant(**{'channels': 32, **options})


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('projections, squares', [('single', 4), ('double', 4), ('feedforward', 7)])
def test_linear_maps_that_follow_each_other_fold_into_one(variant, projections, squares):
    """Equal outputs from fewer weights, the trained module untouched, and nothing left to fold the second time."""
    module = variant(32, 2, projections).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        folded = reparameterize(module)
        twice = reparameterize(folded)
        expected = module(*maps())
        torch.testing.assert_close(folded(*maps()), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(twice(*maps()), folded(*maps()), rtol=0, atol=0)
    assert sum(p.numel() for name, p in folded.named_parameters() if name.endswith('weight')) == squares * 32**2

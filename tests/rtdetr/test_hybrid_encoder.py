import math

import pytest
import torch
from torch import nn

from mmscale.rtdetr import AIFI, HybridEncoder
from mmscale.rtdetr.hybrid_encoder import sine_position_embedding


def encoder(in_channels=(8, 16, 32), **options):
    torch.manual_seed(0)
    options = {'out_channels': 16, 'aifi': dict(num_heads=2, feedforward_channels=32), **options}
    neck = HybridEncoder(in_channels, **options)
    neck.init_weights()
    return neck


def maps(sizes=((16, 24), (8, 12), (4, 6)), channels=(8, 16, 32), batch=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, c, *s, generator=generator) for c, s in zip(channels, sizes, strict=True)]


def test_positions_by_the_formula():
    """Sines and cosines of the row, then of the column; token row * W + column."""
    height, width, channels, temperature = 3, 5, 16, 100.0
    embedding = sine_position_embedding(height, width, channels, temperature)[0]
    for row in range(height):
        for column in range(width):
            for i in range(channels // 4):
                frequency = temperature ** (-i / (channels // 4))
                expected = [f(x * frequency) for x in (row, column) for f in (math.sin, math.cos)]
                found = embedding[row * width + column, i :: channels // 4]
                torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_positions_do_not_depend_on_what_was_asked_before():
    first = sine_position_embedding(4, 6, 8)
    assert sine_position_embedding(6, 4, 8).shape == first.shape
    assert not sine_position_embedding(6, 4, 8).equal(first)
    assert sine_position_embedding(4, 6, 8).equal(first)


def test_aifi_is_a_transformer_encoder_with_positions_in_queries_and_keys():
    torch.manual_seed(0)
    aifi = AIFI(16, num_heads=2, feedforward_channels=32).eval()
    layer, x = aifi.layers[0], torch.randn(2, 16, 3, 4)
    tokens = x.flatten(2).transpose(1, 2)
    located = tokens + sine_position_embedding(3, 4, 16)
    weight, bias = layer.self_attn.in_proj_weight.chunk(3), layer.self_attn.in_proj_bias.chunk(3)
    q, k, v = (
        (t @ w.T + b).unflatten(-1, (2, 8)).transpose(1, 2)
        for t, w, b in zip((located, located, tokens), weight, bias, strict=True)
    )
    attended = ((q @ k.transpose(2, 3) / math.sqrt(8)).softmax(-1) @ v).transpose(1, 2).flatten(2)
    tokens = layer.norm1(tokens + layer.self_attn.out_proj(attended))
    tokens = layer.norm2(tokens + layer.linear2(nn.functional.gelu(layer.linear1(tokens))))
    torch.testing.assert_close(aifi(x), tokens.transpose(1, 2).unflatten(2, (3, 4)), atol=1e-5, rtol=1e-5)


def test_layers_of_aifi_start_as_copies_of_one():
    layers = encoder(aifi=dict(num_heads=2, feedforward_channels=32, num_layers=3)).aifi.layers
    for layer in layers[1:]:
        for value, first in zip(layer.parameters(), layers[0].parameters(), strict=True):
            assert value.equal(first) and value is not first


def test_only_the_last_level_is_attended():
    with_aifi, without = encoder().eval(), encoder(aifi=None).eval()
    missing, unexpected = without.load_state_dict(with_aifi.state_dict(), strict=False)
    assert not missing and all(name.startswith('aifi.') for name in unexpected)
    with_aifi.aifi = nn.Identity()
    for a, b in zip(with_aifi(maps()), without(maps()), strict=True):
        torch.testing.assert_close(a, b)


def test_the_figure_by_hand():
    """Two levels: up, concatenate, CSP; down, concatenate, CSP."""
    neck = encoder((8, 16)).eval()
    low, high = maps(((8, 12), (4, 6)), (8, 16))
    low, high = neck.input_proj[0](low), neck.aifi(neck.input_proj[1](high))
    high = neck.lateral_convs[0](high)
    up = high.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    low = neck.top_down_blocks[0](torch.cat((up, low), 1))
    last = neck.bottom_up_blocks[0](torch.cat((neck.downsample_convs[0](low), high), 1))
    outs = neck(maps(((8, 12), (4, 6)), (8, 16)))
    torch.testing.assert_close(outs[0], low)
    torch.testing.assert_close(outs[1], last)


@pytest.mark.parametrize('sizes', [((16, 24), (8, 12), (4, 6)), ((13, 17), (7, 9), (4, 5)), ((1, 1), (1, 1), (1, 1))])
def test_any_size_keeps_its_size(sizes):
    outs = encoder().eval()(maps(sizes))
    assert [tuple(out.shape) for out in outs] == [(2, 16, *size) for size in sizes]


@pytest.mark.parametrize('levels', [2, 4, 5])
def test_any_number_of_levels(levels):
    channels = [8] * levels
    sizes = [(64 >> i, 96 >> i) for i in range(levels)]
    neck = encoder(channels)
    outs = neck(maps(sizes, channels))
    assert neck.num_outs == levels
    assert [tuple(out.shape[-2:]) for out in outs] == sizes
    sum(out.square().mean() for out in outs).backward()
    assert [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_images_of_a_batch_do_not_meet():
    neck = encoder().eval()
    x = maps()
    for whole, *single in zip(neck(x), *[neck([m[i : i + 1] for m in x]) for i in range(2)], strict=True):
        torch.testing.assert_close(whole, torch.cat(single), atol=1e-5, rtol=1e-5)


def test_the_start_is_torchs_also_in_the_fusion_blocks():
    weight = encoder(out_channels=64).top_down_blocks[0].blocks[0].conv3x3.conv.weight
    bound = 1 / math.sqrt(64 * 9)
    assert 0.95 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(in_channels=[8]), r'in_channels=\[8\] leaves no two levels to fuse'),
        (dict(aifi=dict(heads=2)), r'aifi has no option heads=2: its options are num_heads, '),
        (dict(aifi=dict(channels=8)), r'aifi.channels=8 does not match out_channels=16 of the encoder'),
        (dict(aifi=dict(num_heads=3)), r'channels=16 of AIFI must be a multiple of 4 and of num_heads=3'),
    ],
)
def test_a_wrong_option_is_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        encoder(**options)


def test_maps_of_another_width_are_one_sentence():
    with pytest.raises(ValueError, match=r'maps with \[8, 16, 16\] channels, but in_channels=\[8, 16, 32\]'):
        encoder()(maps(channels=(8, 16, 16)))

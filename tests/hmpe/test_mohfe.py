"""MOHFE: equal to loops over tokens and heads, laws of the mask, the order and the heat, codes of positions."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmscale.hmpe import MOHFE, Heatmaps
from mmscale.hmpe.mohfe import masked_position_embedding
from mmscale.rtdetr.hybrid_encoder import sine_position_embedding

from . import literal

C, HEADS = 16, 4
SIZES = [(6, 8), (3, 4), (2, 2)]


def mohfe(max_tokens=7, seed=0, **options):
    """In double precision, with weights that make attention choose."""
    options = {**dict(num_heads=HEADS, feedforward_channels=24), **options}
    module = MOHFE(C, max_tokens=max_tokens, **options).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if name == 'norm.weight':
            parameter.data += 1
    return module


def inputs(batch=2, sizes=SIZES, seed=0):
    """Maps, and heat with different values everywhere; the mask is no function of the mix, that each is seen."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(draw, width):
        return [draw(batch, width, *size, generator=generator, dtype=torch.float64) for size in sizes]

    classes, boxes, mixed, mask = (drawn(torch.rand, 1) for _ in range(4))
    return drawn(torch.randn, C), Heatmaps(classes, boxes, mixed, [x > 0.4 for x in mask])


def expected(module, maps, heat, max_tokens=7, **options):
    weights = {name: value.detach() for name, value in module.named_parameters()}
    parts = heat.classes, heat.boxes, heat.mixed, heat.mask
    return literal.mohfe(weights, maps, *parts, HEADS, max_tokens, **options)


def assert_levels_close(ours, theirs, tolerance=1e-6):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def masked_by(heat, value):
    return dataclasses.replace(heat, mask=[torch.full_like(x, value) for x in heat.mask])


# Values and gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('sizes', [SIZES, [(5, 7), (3, 4)], [(4, 6)], [(1, 1), (1, 1)]], ids=str)
@pytest.mark.parametrize('max_tokens', [1, 7, None])
def test_it_is_the_literal_form(max_tokens, sizes):
    module, (maps, heat) = mohfe(max_tokens), inputs(sizes=sizes)
    assert_levels_close(module(maps, heat), expected(module, maps, heat, max_tokens))


def test_gradients_are_those_of_the_literal_form():
    """Of the maps, both heats and every weight."""
    module, (maps, heat) = mohfe(), inputs()
    leaves = [x.requires_grad_() for x in (*maps, *heat.classes, *heat.boxes)]
    weights = [torch.randn(x.shape, dtype=torch.float64) for x in maps]

    def weighed(outs):
        return sum((out * weight).sum() for out, weight in zip(outs, weights, strict=True))

    ours = torch.autograd.grad(weighed(module(maps, heat)), [*leaves, *module.parameters()])
    named = dict(module.named_parameters())
    outs = literal.mohfe(named, maps, heat.classes, heat.boxes, heat.mixed, heat.mask, HEADS, 7)
    assert_levels_close(ours, torch.autograd.grad(weighed(outs), [*leaves, *named.values()]), 1e-5)


def test_batch_of_two_is_two_batches_of_one():
    module, (maps, heat) = mohfe(), inputs()
    whole = module(maps, heat)
    for i in range(2):
        parts = [[x[i : i + 1] for x in part] for part in (maps, heat.classes, heat.boxes, heat.mixed, heat.mask)]
        assert_levels_close(module(parts[0], Heatmaps(*parts[1:])), [x[i : i + 1] for x in whole], 1e-10)


# Who attends ----------------------------------------------------------------------------------------------------------


def test_tokens_beyond_the_hottest_stay_as_they_are():
    """To the last bit; the hottest of each level change."""
    module, (maps, heat) = mohfe(3), inputs()
    for out, x, mixed in zip(module(maps, heat), maps, heat.mixed, strict=True):
        hot = mixed >= mixed.flatten(1).topk(3).values[:, -1].view(2, 1, 1, 1)
        assert hot.flatten(1).sum(1).tolist() == [3, 3]
        stayed = (out == x).all(1, keepdim=True)
        assert stayed.equal(~hot)


def test_tokens_that_stay_are_not_seen():
    module, (maps, heat) = mohfe(3), inputs()
    cold = [x < x.flatten(1).topk(3).values[:, -1].view(2, 1, 1, 1) for x in heat.mixed]
    other = [torch.where(mask, x + 1, x) for x, mask in zip(maps, cold, strict=True)]
    for a, b, mask in zip(module(maps, heat), module(other, heat), cold, strict=True):
        assert a.masked_fill(mask, 0).equal(b.masked_fill(mask, 0))


@pytest.mark.parametrize('count', [48, 1000])
def test_all_attend_without_a_limit_or_with_a_large_one(count):
    limited, whole, (maps, heat) = mohfe(count), mohfe(None), inputs()
    outs = whole(maps, heat)
    assert_levels_close(limited(maps, heat), outs, 1e-10)
    assert all((out != x).any(1).all() for out, x in zip(outs, maps, strict=True))


def test_levels_see_each_other():
    """What changes at a hot position of the coarsest level reaches the finest."""
    module, (maps, heat) = mohfe(None), inputs()
    other = [*maps[:2], maps[2] + 1]
    assert (module(maps, heat)[0] - module(other, heat)[0]).abs().amax(1).min() > 1e-6


def test_the_order_of_positions_does_not_matter(monkeypatch):
    """Maps, heat and codes permuted alike permute what comes out."""
    module, (maps, heat) = mohfe(), inputs()
    generator = torch.Generator().manual_seed(3)
    orders = [torch.randperm(h * w, generator=generator) for h, w in SIZES]
    codes = [code[:, order] for code, order in zip(module.positions(maps), orders, strict=True)]

    def permuted(levels):
        return [x.flatten(2)[..., order].view(x.shape) for x, order in zip(levels, orders, strict=True)]

    whole = permuted(module(maps, heat))
    monkeypatch.setattr(module, 'positions', lambda maps: codes)
    parts = [permuted(part) for part in (heat.classes, heat.boxes, heat.mixed, heat.mask)]
    assert_levels_close(module(permuted(maps), Heatmaps(*parts)), whole, 1e-10)


# Heat -----------------------------------------------------------------------------------------------------------------


def test_a_mask_of_ones_makes_the_encoding_the_plain_one():
    module, (maps, heat) = mohfe(), inputs()
    outs = module(maps, masked_by(heat, True))
    codes = [code.double() for code in literal.position_codes(SIZES, C)]
    ones = torch.ones(1, 48, dtype=torch.bool)
    assert masked_position_embedding(codes[0][None], ones).equal(codes[0][None])
    assert_levels_close(outs, expected(module, maps, masked_by(heat, True)))
    assert max((a - b).abs().max() for a, b in zip(outs, module(maps, heat), strict=True)) > 1e-4


def test_a_mask_of_zeros_removes_it():
    module, (maps, heat) = mohfe(), inputs()
    outs = module(maps, masked_by(heat, False))
    assert_levels_close(outs, expected(module, maps, heat, positions=False))
    assert max((a - b).abs().max() for a, b in zip(outs, module(maps, heat), strict=True)) > 1e-4


def test_without_heat_attention_sees_biases_alone():
    """All tokens are alike to it: each gets the same, whatever the picture shows."""
    module, (maps, heat) = mohfe(None), inputs()
    zeros = [torch.zeros_like(x) for x in heat.mixed]
    outs = module(maps, Heatmaps(zeros, zeros, zeros, [x > 0 for x in zeros]))
    bias = torch.cat((module.class_proj.bias, module.box_proj.bias))
    matrix, shift = module.self_attn.in_proj_weight.chunk(3)[2], module.self_attn.in_proj_bias.chunk(3)[2]
    added = module.self_attn.out_proj(matrix @ bias + shift)
    for out, x in zip(outs, maps, strict=True):
        tokens = x.flatten(2).transpose(1, 2) + added
        tokens = tokens + module.feedforward(module.norm(tokens))
        torch.testing.assert_close(out, tokens.transpose(1, 2).view(x.shape))


def test_classes_and_boxes_heat_half_of_the_channels_each():
    module, (maps, heat) = mohfe(), inputs()
    assert module.class_proj.weight.shape == module.box_proj.weight.shape == (C // 2, C)
    swapped = dataclasses.replace(heat, classes=heat.boxes, boxes=heat.classes)
    other = mohfe()
    other.class_proj, other.box_proj = other.box_proj, other.class_proj
    weight = other.self_attn.in_proj_weight.data
    weight.copy_(torch.cat((weight[:, C // 2 :], weight[:, : C // 2]), 1))
    assert_levels_close(  # positions have no halves to exchange
        other(maps, masked_by(swapped, False)), module(maps, masked_by(heat, False)), 1e-10
    )


def test_the_choice_passes_no_gradient_to_the_mix():
    module, (maps, heat) = mohfe(), inputs()
    mixed = [x.requires_grad_() for x in heat.mixed]
    leaves = [x.requires_grad_() for x in (*heat.classes, *heat.boxes)]
    total = sum(out.square().sum() for out in module(maps, heat))
    gradients = torch.autograd.grad(total, [*mixed, *leaves], allow_unused=True)
    assert [g is None for g in gradients] == [True] * 3 + [False] * 6


def test_values_know_no_positions():
    """With attention that sees one token only, its own, the code has nothing to say."""
    module, (maps, heat) = mohfe(1), inputs(sizes=[(4, 4)])
    assert_levels_close(module(maps, masked_by(heat, True)), module(maps, masked_by(heat, False)), 1e-10)


# Positions ------------------------------------------------------------------------------------------------------------


def test_a_mask_keeps_codes_where_it_is_one():
    generator = torch.Generator().manual_seed(0)
    code, mask = torch.randn(1, 6, 8, generator=generator), torch.rand(2, 6, generator=generator) > 0.5
    found = masked_position_embedding(code, mask)
    assert found.shape == (2, 6, 8)
    for i in range(2):
        assert found[i].equal(literal.masked(code[0], mask[i]))
    own = torch.randn(2, 6, 8, generator=generator)
    assert masked_position_embedding(own, mask)[1].equal(literal.masked(own[1], mask[1]))
    assert masked_position_embedding(own, torch.ones_like(mask)).equal(own)
    assert not masked_position_embedding(own, torch.zeros_like(mask)).any()


@pytest.mark.parametrize('size', [(3, 4), (1, 1), (5, 2)], ids=str)
@pytest.mark.parametrize('temperature', [10000.0, 20.0])
def test_the_coarsest_levels_code_is_aifis(size, temperature):
    finer = torch.zeros(1, C, 2 * size[0], 2 * size[1])
    ours = mohfe(temperature=temperature).positions([finer, torch.zeros(1, C, *size)])[-1]
    assert ours.dtype is torch.float32 and ours.shape == (1, size[0] * size[1], C)
    assert ours.equal(sine_position_embedding(*size, C, temperature))


@pytest.mark.parametrize('sizes', [SIZES, [(13, 7), (7, 4), (4, 2)]], ids=str)
def test_codes_by_the_formula(sizes):
    module = mohfe(temperature=50.0)
    maps = [torch.zeros(2, C, *size) for size in sizes]
    for found, code in zip(module.positions(maps), literal.position_codes(sizes, C, 50.0), strict=True):
        assert found.shape == (2, *code.shape)
        torch.testing.assert_close(found[1].double(), code, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('ratio', [2, 4])
def test_finer_cells_lie_around_the_coarse_one(ratio):
    """The mean code of the cells within a coarse cell is near its code, and nearer than to any other's."""
    height, width = 3, 4
    fine = sine_position_embedding(height * ratio, width * ratio, C, scale=(1 / ratio, 1 / ratio))
    fine = fine.view(height, ratio, width, ratio, C).mean((1, 3)).view(-1, C)
    coarse = sine_position_embedding(height, width, C)[0]
    assert (fine - coarse).abs().max() < 0.06
    assert torch.cdist(fine, coarse).argmin(1).equal(torch.arange(height * width))


def test_codes_do_not_depend_on_what_was_asked_before():
    first = sine_position_embedding(4, 6, 8, scale=(0.5, 0.5)).clone()
    assert not sine_position_embedding(4, 6, 8, scale=(0.5, 0.25)).equal(first)
    assert sine_position_embedding(4, 6, 8, scale=(0.5, 0.5)).equal(first)


@pytest.mark.parametrize('max_tokens', [7, None])
def test_a_traced_graph_keeps_the_sizes_open(max_tokens):
    """Also across the number of positions that attend."""
    module = mohfe(max_tokens).requires_grad_(False)

    def flat(*levels):
        parts = [levels[i::5] for i in range(5)]
        return tuple(module(parts[0], Heatmaps(*parts[1:])))

    def arguments(sizes):
        maps, heat = inputs(sizes=sizes)
        levels = zip(maps, heat.classes, heat.boxes, heat.mixed, heat.mask, strict=True)
        return tuple(x for level in levels for x in level)

    graph = torch.jit.trace(flat, arguments(SIZES), check_trace=False)
    for sizes in (SIZES, [(12, 10), (6, 5), (3, 3)], [(2, 3), (1, 2), (1, 1)]):
        assert_levels_close(graph(*arguments(sizes)), flat(*arguments(sizes)))


# Training -------------------------------------------------------------------------------------------------------------


def test_dropout_in_all_places():
    module, (maps, heat) = mohfe(dropout=0.5), inputs()
    assert module.self_attn.dropout == module.dropout.p == module.feedforward[2].p == 0.5
    still = module(maps, heat)
    assert_levels_close(module(maps, heat), still, 0)
    for part in (module.self_attn, module.dropout, module.feedforward[2]):
        part.train()
        assert not module(maps, heat)[0].equal(still[0])
        part.eval()


def test_all_dropped_leaves_the_maps():
    module, (maps, heat) = mohfe(dropout=1.0), inputs()
    module.dropout.train()
    assert_levels_close(module(maps, heat), maps, 0)


def test_the_start_is_pytorchs_and_every_weight_learns():
    module = mohfe(None)
    module.init_weights()
    assert not module.self_attn.in_proj_bias.any() and (module.norm.weight == 1).all()
    assert 0.9 * C**-0.5 < module.class_proj.weight.abs().max() <= C**-0.5
    maps, heat = inputs()
    sum(x.square().mean() for x in module(maps, heat)).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in module.parameters())


def test_under_mixed_precision_it_is_near_and_keeps_the_maps_kind():
    module, (maps, heat) = mohfe(None).float(), inputs()
    maps = [x.float() for x in maps]
    heat = Heatmaps(*([x.float() for x in part] for part in (heat.classes, heat.boxes, heat.mixed)), heat.mask)
    exact = module(maps, heat)
    with torch.autocast('cpu', torch.bfloat16):
        outs = module(maps, heat)
    for a, b in zip(outs, exact, strict=True):
        assert a.dtype is torch.float32 and F.cosine_similarity(a, b).min() > 0.99
    with torch.autocast('cpu', torch.bfloat16):
        half = module([x.bfloat16() for x in maps], heat)
    assert all(x.dtype is torch.bfloat16 for x in half)


def test_the_activation_is_exchangeable():
    assert isinstance(MOHFE(8, 2).feedforward[1], nn.GELU)
    assert isinstance(MOHFE(8, 2, act_cfg=dict(type='ReLU')).feedforward[1], nn.ReLU)


@pytest.mark.parametrize(
    ('channels', 'options', 'sentence'),
    [
        (18, dict(num_heads=2), 'channels=18 of MOHFE must be a multiple of 4 and of num_heads=2'),
        (16, dict(num_heads=3), 'channels=16 of MOHFE must be a multiple of 4 and of num_heads=3'),
        (16, dict(max_tokens=0), 'max_tokens=0 of MOHFE must be at least 1, or None'),
    ],
    ids=str,
)
def test_a_wrong_option_is_one_sentence(channels, options, sentence):
    with pytest.raises(ValueError, match=f'^{sentence}$'):
        MOHFE(channels, **options)

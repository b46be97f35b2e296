"""HIDQ and the decoder with shared values: the hottest positions, eq. 8, the same as RT-DETR's with equal weights."""

import pytest
import torch
from torch import nn

from mmscale.hmpe import HIDQ
from mmscale.hmpe.hidq import SharedValueDecoder
from mmscale.rtdetr import RTDETRDecoder

from . import literal

C, LAYERS, SHAPES = 16, 3, [(6, 8), (3, 4)]


def hidq(seed=0):
    module = HIDQ(C).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def memory_and_heat(batch=3, positions=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    memory = torch.randn(batch, positions, C, generator=generator, dtype=torch.float64)
    return memory, torch.rand(batch, positions, generator=generator, dtype=torch.float64)


# Queries --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 7, 20])
def test_queries_are_exactly_the_hottest_of_each_image_hottest_first(count):
    memory, heat = memory_and_heat()
    queries, places = hidq()(memory, heat, count)
    assert queries.shape == (3, count, C) and places.shape == (3, count)
    for i in range(3):
        assert places[i].tolist() == heat[i].argsort(descending=True)[:count].tolist()
    found = heat.gather(1, places)
    assert (found.diff(dim=1) <= 0).all()
    assert all(len(set(row.tolist())) == count for row in places)
    if count < 20:
        assert (found[:, -1] > heat.scatter(1, places, -1).amax(1)).all()


def test_with_fewer_positions_than_asked_for_all_are_queries():
    memory, heat = memory_and_heat()
    queries, places = hidq()(memory, heat, 300)
    assert queries.shape == (3, 20, C)
    assert places.sort(1).values.equal(torch.arange(20).expand(3, -1))


def test_a_traced_graph_keeps_the_number_of_positions_open():
    """Also across the number of queries."""
    module = hidq().requires_grad_(False)
    for traced in (20, 5):
        graph = torch.jit.trace(lambda *args: module(*args, 7), memory_and_heat(positions=traced), check_trace=False)
        for positions in (20, 5, 33):
            inputs = memory_and_heat(positions=positions)
            for a, b in zip(graph(*inputs), module(*inputs, 7), strict=True):
                torch.testing.assert_close(a, b)


def test_a_query_is_the_projection_of_the_heated_embedding():
    """Eq. 8, one image and one query at a time."""
    module, (memory, heat) = hidq(), memory_and_heat()
    expected, places = literal.hidq(dict(module.named_parameters()), memory, heat, 6)
    queries, found = module(memory, heat, 6)
    assert found.equal(places)
    torch.testing.assert_close(queries, expected, atol=1e-10, rtol=1e-10)


def test_the_heat_is_a_querys_length():
    module, (memory, heat) = hidq(), memory_and_heat()
    nn.init.zeros_(module.query_proj.bias)
    full, _ = module(memory, heat, 5)
    half, _ = module(memory, heat / 2, 5)
    torch.testing.assert_close(half, full / 2)


def test_gradients_reach_the_heat_and_the_memory_of_the_chosen():
    module, (memory, heat) = hidq(), memory_and_heat()
    memory.requires_grad_()
    heat.requires_grad_()
    queries, places = module(memory, heat, 4)
    by_memory, by_heat, *by_weights = torch.autograd.grad(queries.sin().sum(), [memory, heat, *module.parameters()])
    chosen = torch.zeros_like(heat, dtype=torch.bool).scatter(1, places, True)
    assert by_heat.ne(0).equal(chosen) and by_memory.any(-1).equal(chosen)
    assert all(g.any() for g in by_weights)
    named = dict(module.named_parameters())
    expected, _ = literal.hidq(named, memory, heat, 4)
    grads = torch.autograd.grad(expected.sin().sum(), [memory, heat, *named.values()])
    for a, b in zip((by_memory, by_heat, *by_weights), grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


# The decoder ----------------------------------------------------------------------------------------------------------


def decoders(seed=0, **options):
    """One with shared values, and RT-DETR's whose value projections are all set to the shared one."""
    options = {**dict(num_layers=LAYERS, embed_dims=C, num_heads=2, feedforward_channels=32), **options}
    torch.manual_seed(seed)
    shared, plain = SharedValueDecoder(2, **options), RTDETRDecoder(2, **options)
    for parameter in shared.parameters():  # layers apart from each other
        nn.init.normal_(parameter, std=0.2)
    weights = shared.state_dict()
    for kind in ('weight', 'bias'):
        value = weights.pop(f'value_proj.{kind}', None)
        for i in range(options['num_layers']):
            weights[f'layers.{i}.cross_attn.value_proj.{kind}'] = value
    plain.load_state_dict(weights)
    branches = nn.ModuleList(nn.Linear(C, 4) for _ in range(options['num_layers']))
    return shared, plain, branches


def decoder_inputs(batch=2, queries=5):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(batch, queries, C, generator=generator)
    references = torch.rand(batch, queries, 4, generator=generator) * 0.8 + 0.1
    return query, references, torch.randn(batch, 60, C, generator=generator), SHAPES


@pytest.mark.parametrize('training', [True, False])
def test_the_decoder_is_rt_detrs_whose_values_are_all_the_same(training):
    shared, plain, branches = decoders()
    ours, theirs = (m.train(training)(*decoder_inputs(), branches) for m in (shared, plain))
    for a, b in zip([*ours[0], *ours[1]], [*theirs[0], *theirs[1]], strict=True):
        torch.testing.assert_close(a, b)


def test_a_mask_hides_queries_as_in_rt_detrs():
    shared, plain, branches = decoders()
    mask = torch.eye(5, dtype=torch.bool).logical_not()
    ours, theirs = (m.eval()(*decoder_inputs(), branches, mask) for m in (shared, plain))
    torch.testing.assert_close(ours[0][-1], theirs[0][-1])
    assert not ours[0][-1].equal(shared(*decoder_inputs(), branches)[0][-1])


def test_the_shared_values_gradient_is_the_sum_of_the_layers():
    shared, plain, branches = decoders()
    query, references, memory, shapes = decoder_inputs()
    results = []
    for module in (shared, plain):
        values = memory.clone().requires_grad_()
        states, boxes = module.train()(query, references, values, shapes, branches)
        sum(x.square().sum() for x in (*states, *boxes)).backward()
        results.append((values.grad, {name: p.grad for name, p in module.named_parameters()}))
    (ours, named), (theirs, by_layer) = results
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for kind in ('weight', 'bias'):
        total = sum(by_layer.pop(f'layers.{i}.cross_attn.value_proj.{kind}') for i in range(LAYERS))
        torch.testing.assert_close(named.pop(f'value_proj.{kind}'), total, atol=1e-4, rtol=1e-4)
    assert set(named) == set(by_layer)
    for name, gradient in named.items():
        torch.testing.assert_close(gradient, by_layer[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('layers', [0, 1, 2, 3])
def test_fewer_layers_at_inference_are_the_first_ones(layers):
    whole, _, branches = decoders()
    part, _, _ = decoders(num_eval_layers=layers)
    part.load_state_dict(whole.state_dict())
    states, boxes = part.eval()(*decoder_inputs(), branches)
    assert len(states) == len(boxes) == layers
    expected = whole.eval()(*decoder_inputs(), branches)
    for a, b in zip([*states, *boxes], [*expected[0][:layers], *expected[1][:layers]], strict=True):
        assert a.equal(b)
    trained, expected = (module.train()(*decoder_inputs(), branches) for module in (part, whole))
    assert len(trained[0]) == LAYERS
    assert all(a.equal(b) for a, b in zip([*trained[0], *trained[1]], [*expected[0], *expected[1]], strict=True))


def test_values_are_projected_once(monkeypatch):
    shared, _, branches = decoders()
    calls = []
    monkeypatch.setattr(shared.value_proj, 'forward', lambda x: calls.append(x.shape) or x)
    shared.train()(*decoder_inputs(), branches)
    assert calls == [(2, 60, C)]
    shared.num_eval_layers = 0
    shared.eval()(*decoder_inputs(), branches)
    assert len(calls) == 1, 'and not at all where no layer reads them'


def test_without_layers_there_is_nothing_to_learn_and_nothing_comes():
    shared, plain, branches = decoders(num_layers=0)
    assert list(shared.parameters()) == [] == list(plain.parameters())
    shared.init_weights()
    for training in (True, False):
        assert shared.train(training)(*decoder_inputs(), branches) == ([], [])


def test_the_start_is_rt_detrs_with_values_as_mmcvs():
    shared, _, _ = decoders()
    shared.init_weights()
    bound = (6 / (2 * C)) ** 0.5  # Xavier's
    assert 0.9 * bound < shared.value_proj.weight.abs().max() <= bound and not shared.value_proj.bias.any()
    first, *others = shared.layers
    for layer in others:
        assert all(a.equal(b) for a, b in zip(first.parameters(), layer.parameters(), strict=True))
    assert not first.cross_attn.attention_weights.weight.any() and first.cross_attn.sampling_offsets.bias.any()
    assert not any('cross_attn.value_proj' in name for name, _ in shared.named_parameters())

"""The scan: token by token against a plainer sum over pairs, and in chunks against token by token."""

import warnings
from functools import cache, partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmscale.analysis.memory import allocated_peak
from mmscale.analysis.op_counter import OpCounter
from mmscale.hsd_detr.selective_scan import GROUP, ScanInputs, chunked_scan, sequential_scan

B, D, P, N = 2, 2, 3, 4
DIRECTIONS = ('forward', 'backward', 'both')
NAMES = [
    'value',
    *(f'{name} of {direction}' for direction in DIRECTIONS[:2] for name in ('query', 'key', 'step', 'rate')),
]
RATES = {'weak': (-1.0, -16.0), 'usual': (-1.0, -16.0), 'strong': (-4.0, -16.0), 'mixed': (-1.0, -16.0)}


def steps(kind, length, batch, generator):
    share = torch.rand(batch, D, length, generator=generator, dtype=torch.float64)
    if kind == 'weak':
        return share * 0 + 1e-6
    if kind == 'usual':
        return 0.001 * 100**share
    if kind == 'strong':
        return 5 * share
    # from one that forgets all to one that forgets nothing, in any order: what runs over the former keeps the latter
    choice = torch.randint(0, 4, share.shape, generator=generator)
    return torch.tensor([1e-6, 1e-3, 0.1, 5.0], dtype=torch.float64)[choice] * (0.5 + share)


def tensors(length, kind='usual', batch=B, seed=0):
    """The value, and query, key, step and rate of the two directions."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    out = [noise(batch, D, P, length)]
    for scale in (1.0, 0.7):
        out += [noise(batch, N, length), noise(batch, N, length), steps(kind, length, batch, generator)]
        out += [torch.tensor(RATES[kind], dtype=torch.float64) * scale]
    return out


def of(direction, flat):
    """The arguments of chunked_scan."""
    value, ahead, behind = flat[0], ScanInputs(*flat[1:5]), ScanInputs(*flat[5:9])
    return dict(
        value=value,
        forward=None if direction == 'backward' else ahead,
        backward=None if direction == 'forward' else behind,
    )


def weighed(out):
    """A loss in which no two values weigh the same."""
    return (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)).sum()


def results(function, flat):
    """The output and every gradient, None where an input takes no part."""
    flat = [x.clone().requires_grad_() for x in flat]
    out = function(flat)
    return [out.detach(), *torch.autograd.grad(weighed(out), flat, allow_unused=True)]


@cache
def one_by_one(length, kind, seed=0):
    """Outputs and gradients of sequential_scan for each direction and for both, in double precision."""
    flat = tensors(length, kind, seed=seed)
    ahead = results(lambda x: sequential_scan(x[0], ScanInputs(*x[1:5])), flat)
    behind = results(lambda x: sequential_scan(x[0], ScanInputs(*x[5:9]), backward=True), flat)
    both = [a if b is None else b if a is None else a + b for a, b in zip(ahead, behind, strict=True)]
    return dict(forward=ahead, backward=behind, both=both)


def one_direction(flat, direction):
    """Token by token, one direction or the sum of both."""
    ahead = sequential_scan(flat[0], ScanInputs(*flat[1:5]))
    behind = sequential_scan(flat[0], ScanInputs(*flat[5:9]), backward=True)
    return dict(forward=ahead, backward=behind, both=ahead + behind)[direction]


def assert_close(ours, expected, tolerance, rates=1):
    """Relative to the largest value of each tensor; ``rates`` times the tolerance for the rates' gradients."""
    for name, a, b in zip(['output', *NAMES], ours, expected, strict=True):
        assert (a is None) == (b is None), name
        if b is not None:
            assert a.isfinite().all(), f'{name} is not finite'
            error = ((a - b).abs().max() / b.abs().max()).item() if b.any() else a.abs().max().item()
            assert error <= tolerance * (rates if 'rate' in name else 1), f'{name}: {error:.2g}'


def assert_chunked(length, kind, direction, chunk, dtype, tolerance):
    flat = [x.to(dtype) for x in tensors(length, kind)]
    ours = results(lambda x: chunked_scan(**of(direction, x), chunk=chunk), flat)
    assert ours[0].dtype == dtype
    # Where decays are strong, the rates' gradients are small differences of sums over all that the running sums hold.
    rounds = dtype == torch.float32 and kind in ('strong', 'mixed')
    assert_close(ours, one_by_one(length, kind)[direction], tolerance, rates=10 if rounds else 1)


# Token by token -------------------------------------------------------------------------------------------------------


def pairs(value, inputs, backward=False):
    """The sum over s of exp(rate * the steps after s up to t) * step_s * (query_t . key_s) * value_s, for every t."""
    query, key, step, rate = inputs
    outs = []
    for t in range(value.shape[-1]):
        out = torch.zeros_like(value[..., t])
        for s in range(t, value.shape[-1]) if backward else range(t + 1):
            between = sum((step[..., r] for r in (range(t, s) if backward else range(s + 1, t + 1))), 0 * step[..., t])
            weight = (rate * between).exp() * step[..., s] * (query[..., t] * key[..., s]).sum(1, keepdim=True)
            out = out + weight[..., None] * value[..., s]
        outs.append(out)
    return torch.stack(outs, dim=-1)


@pytest.mark.parametrize('kind', RATES)
@pytest.mark.parametrize('backward', [False, True])
@pytest.mark.parametrize('length', [1, 2, 9])
def test_one_by_one_is_the_sum_over_all_pairs(length, backward, kind):
    flat = tensors(length, kind)[:5]
    ours = results(lambda x: sequential_scan(x[0], ScanInputs(*x[1:]), backward), flat)
    plain = results(lambda x: pairs(x[0], ScanInputs(*x[1:]), backward), flat)
    for name, a, b in zip(['output', *NAMES], ours, plain, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f'{n}: {m}')


def test_by_hand():
    """Three tokens of 1, 2, 4 whose steps are 1, 2, 3 and whose state halves with every unit of a step."""
    value, one = torch.tensor([1.0, 2, 4]).view(1, 1, 1, 3), torch.ones(1, 1, 3)
    inputs = ScanInputs(one, one, torch.tensor([[[1.0, 2, 3]]]), -torch.tensor([2.0]).log())
    forward, backward = torch.tensor([1, 1 / 4 + 4, (1 / 4 + 4) / 8 + 12]), torch.tensor([8 / 2, 4 + 12 / 4, 12])
    backward[0] = 1 + (4 + 12 / 4) / 2
    for function in (
        lambda d: sequential_scan(value, inputs, d == 'backward'),
        lambda d: chunked_scan(value, **{d: inputs}),
    ):
        torch.testing.assert_close(function('forward').flatten(), forward)
        torch.testing.assert_close(function('backward').flatten(), backward)


# In chunks ------------------------------------------------------------------------------------------------------------


PRECISIONS = pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)


@PRECISIONS
@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('chunk', [1, 7, 32, 64, 400])
@pytest.mark.parametrize('length', [1, 2, 31, 32, 33, 300])
def test_chunks_of_any_size(length, chunk, direction, dtype, tolerance):
    assert_chunked(length, 'usual', direction, chunk, dtype, tolerance)


@PRECISIONS
@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('kind', ['weak', 'strong', 'mixed'])
@pytest.mark.parametrize('length, chunk', [(33, 7), (300, 1), (300, 32), (300, 64)])
def test_any_decay(length, chunk, kind, direction, dtype, tolerance):
    assert_chunked(length, kind, direction, chunk, dtype, tolerance)


@PRECISIONS
@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('kind', ['usual', 'mixed', 'weak'])
@pytest.mark.parametrize('chunk', [1, 2, 32])
def test_groups_of_chunks_and_groups_of_groups(chunk, kind, direction, dtype, tolerance):
    """1100 tokens are 35 chunks of 32, 550 of 2, or 1100 of 1: groups of eight, and groups of those and of these."""
    assert_chunked(1100, kind, direction, chunk, dtype, tolerance)


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('chunk', [1, 32])
@pytest.mark.parametrize('where', ['now and then', 'at first'])
def test_what_is_forgotten_disturbs_nothing(where, chunk, direction):
    """A step of 1e5 erases the state, and half of a thousand of them do; what comes behind them is as exact as ever."""
    flat = tensors(1100 if where == 'at first' else 300)
    places = {
        'now and then': (slice(None, None, 5), slice(None, None, 5)),
        'at first': (slice(None, 600), slice(500, None)),
    }[where]
    for key, step, own in ((flat[2], flat[3], places[0]), (flat[6], flat[7], places[1])):
        step[..., own] = 1e5
        key[..., own] *= 1e-5
    plain = one_direction(flat, direction)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        out = chunked_scan(**of(direction, [x.to(dtype) for x in flat]), chunk=chunk)
        torch.testing.assert_close(out.double(), plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('chunk', [1, 32])
@pytest.mark.parametrize('direction', DIRECTIONS)
def test_steps_of_zero(direction, chunk):
    """A token that drives nothing and forgets nothing: right, and nothing is infinite."""
    flat = tensors(40)
    for step in (flat[3], flat[7]):
        step[..., ::3] = 0
        step[0, 0] = 0
    ours = results(lambda x: chunked_scan(**of(direction, x), chunk=chunk), [x.float() for x in flat])
    for name, x in zip(['output', *NAMES], ours, strict=True):
        assert x is None or x.isfinite().all(), name
    torch.testing.assert_close(ours[0].double(), one_direction(flat, direction), rtol=1e-5, atol=1e-5)


def test_both_directions_are_the_sum_of_either():
    flat = tensors(75)
    ahead, behind, both = (chunked_scan(**of(direction, flat), chunk=16) for direction in DIRECTIONS)
    torch.testing.assert_close(both, ahead + behind, rtol=1e-12, atol=1e-12)
    assert (ahead - behind).abs().max() > 0.1


@pytest.mark.parametrize('chunk', [1, 7, 32])
def test_who_sees_whom(chunk):
    """Forward, a token changes itself and those behind it; backward, itself and those before it; beyond any chunk."""
    flat, place = tensors(70, 'weak'), 37
    for direction in DIRECTIONS:
        before = chunked_scan(**of(direction, flat), chunk=chunk)
        for index in (0, 1, 2, 3) if direction == 'forward' else (0, 5, 6, 7):
            changed = [x.clone() for x in flat]
            changed[index][..., place] *= 1e3
            difference = (chunked_scan(**of(direction, changed), chunk=chunk) - before).abs().amax((0, 1, 2))
            seen = (difference > 1e-10 * before.abs().max()).tolist()
            query, ahead = index in (1, 5), index < 5  # a query is not kept in the state
            right = not query and direction != 'backward' and ahead
            left = not query and direction != 'forward' and (index == 0 or not ahead)
            expected = [t == place or (t < place and left) or (t > place and right) for t in range(70)]
            assert seen == expected, (direction, index)


@pytest.mark.parametrize('chunk', [7, 32])
@pytest.mark.parametrize('direction', DIRECTIONS)
def test_without_gradients_it_is_the_same(direction, chunk):
    """Then matrices are overwritten that the backward pass would need."""
    flat = tensors(70)
    expected = chunked_scan(**of(direction, flat), chunk=chunk)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            out = chunked_scan(**of(direction, flat), chunk=chunk)
        torch.testing.assert_close(out, expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('function', ['sequential', 'chunked'])
def test_a_batch_of_two_is_two_of_one(function, direction):
    def run(flat):
        return chunked_scan(**of(direction, flat), chunk=8) if function == 'chunked' else one_direction(flat, direction)

    flat = tensors(45)
    apart = [run([x if x.ndim == 1 else x[i : i + 1] for x in flat]) for i in range(2)]
    torch.testing.assert_close(run(flat), torch.cat(apart), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(*apart)


# Precision ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_and_single_comes_back(half, direction):
    flat = [x.to(half) for x in tensors(50)]
    out = chunked_scan(**of(direction, flat))
    assert out.dtype == torch.float32
    assert out.equal(chunked_scan(**of(direction, [x.float() for x in flat])))


@pytest.mark.parametrize('direction', DIRECTIONS)
def test_autocast_changes_nothing(direction):
    flat = [x.float() for x in tensors(50)]
    with torch.autocast('cpu', torch.bfloat16):
        out = chunked_scan(**of(direction, flat))
    assert out.dtype == torch.float32 and out.equal(chunked_scan(**of(direction, flat)))


def test_inputs_are_not_written_to():
    flat = tensors(50)
    copies = [x.clone() for x in flat]
    for direction in DIRECTIONS:
        chunked_scan(**of(direction, flat))
    assert all(x.equal(copy) for x, copy in zip(flat, copies, strict=True))


# Cost -----------------------------------------------------------------------------------------------------------------


def inputs_of_size(length):
    """One image, with a head as wide as in use."""
    one = ScanInputs(torch.rand(1, 16, length), torch.rand(1, 16, length), torch.rand(1, 1, length), -torch.ones(1))
    return torch.rand(1, 1, 32, length), one, one


@pytest.mark.parametrize('directions', [1, 2])
def test_a_token_costs_a_constant(directions):
    """Multiply-adds by hand, per token and with chunks of 32: Q K^T and (..) V, the chunk's state and its reading."""
    costs = []
    for length in (1024, 4096, 16384):
        arguments = inputs_of_size(length)[: 1 + directions]
        with torch.no_grad(), OpCounter() as counter:
            chunked_scan(*arguments)
        assert not counter.unknown
        costs.append(counter.macs['matrix product'] / length)
    assert max(costs) < 1.02 * min(costs)
    between = (
        GROUP * (16 * 32) / 32 * GROUP / (GROUP - 1)
    )  # for 32 tokens, a state of each chunk of a group; and groups
    by_hand = 32 * 32 + directions * (32 * 16 + 2 * 16 * 32 + between)
    assert costs == pytest.approx([by_hand] * 3, rel=0.01)


@pytest.mark.parametrize('training', [False, True])
def test_memory_is_in_proportion(training):
    def run(length):
        value, *both = inputs_of_size(length)
        with torch.set_grad_enabled(training):
            out = chunked_scan(value.requires_grad_(training), *both)
            if training:
                out.sum().backward()

    costs = [allocated_peak(partial(run, length)) / length for length in (1024, 4096, 16384)]
    assert max(costs) < 1.1 * min(costs)


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count, self.numel = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.count += 1
        self.numel = max(self.numel, out.numel() if torch.is_tensor(out) else 0)
        return out


def test_no_loop_over_tokens_and_no_matrix_of_all_pairs():
    counts = []
    for length in (4096, 16384):
        with Operators() as seen:
            chunked_scan(*inputs_of_size(length))
        counts.append(seen.count)
        assert seen.numel <= length * 32
    assert counts[0] == counts[1] < 600


# Errors and graphs ----------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_one_sentence():
    flat = tensors(6)
    with pytest.raises(ValueError, match='^forward=None and backward=None leave no direction to scan$'):
        chunked_scan(flat[0])
    with pytest.raises(ValueError, match='^chunk=0 should be 1 or more$'):
        chunked_scan(**of('both', flat), chunk=0)
    good, expected = ScanInputs(*flat[1:5]), r'\[\(2, 4, 6\), \(2, 4, 6\), \(2, 2, 6\), \(2,\)\]'
    wrong = dict(query=flat[1][..., :5], key=flat[2][:, :3], step=flat[3][:, :1], rate=flat[4][:1])
    for name, x in wrong.items():
        for direction in ('forward', 'backward'):
            message = f'query, key, step and rate of {direction} have .* but should have {expected} beside values of '
            with pytest.raises(ValueError, match=message + r'\(2, 2, 3, 6\)$'):
                chunked_scan(flat[0], **{**dict(forward=good, backward=good), direction: good._replace(**{name: x})})


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('length', [3, 64, 2048])
def test_a_traced_graph_serves_any_length(length, direction):
    """One recorded with few chunks serves many, one recorded with groups serves few; both recorded without a rest."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # sizes that Python sees
        graph = torch.jit.trace(lambda *x: chunked_scan(**of(direction, x)), tensors(length), check_trace=False)
    for other in (1, 2, 31, 32, 33, 99, 100, 101, 500, 1500):
        flat = tensors(other, seed=other)
        torch.testing.assert_close(graph(*flat), chunked_scan(**of(direction, flat)), rtol=1e-9, atol=1e-9)
    if length == 3 and direction == 'both':  # chunks have the size that was asked for all the same
        flat, eager = tensors(3000), lambda *x: chunked_scan(**of(direction, x))
        assert allocated_peak(partial(graph, *flat)) < 2 * allocated_peak(partial(eager, *flat))


def test_large_chunks_are_as_exact():
    assert_chunked(300, 'mixed', 'forward', 300, torch.float32, 1e-4)

"""The two-dimensional scan against loops over pixels, and the laws of its four orders."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from mmscale.hsd_detr import SS2D
from mmscale.hsd_detr import ss2d as ss2d_module

from ..layers.test_reparam import stirred
from . import literal

ALL = ('right', 'left', 'down', 'up')
SMALL = dict(state_channels=3, expansion=1.5, head_channels=3, chunk=5)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small(channels=4, dtype=torch.float64, **options):
    """Two heads of three channels, with steps and rates at which near and far tokens both count."""
    module = stirred(SS2D(channels, **{**SMALL, **options}))
    nn.init.uniform_(module.step_bias, -2.0, 0.5)
    nn.init.uniform_(module.log_rate, -2.0, 0.0)
    nn.init.normal_(module.skip)
    nn.init.uniform_(module.norm.weight, 0.5, 1.5)
    nn.init.normal_(module.select.weight)
    return module.to(dtype)


def weighed(out):
    """A loss in which no two values weigh the same."""
    return (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)).sum()


def results(forward, module, x):
    """Output, and the gradients of the input and of every parameter, by name."""
    x, named = x.clone().requires_grad_(), dict(module.named_parameters())
    out = forward(x)
    gradients = torch.autograd.grad(weighed(out), [x, *named.values()], allow_unused=True)
    return dict(zip(['out', 'input', *named], [out, *gradients], strict=True))


def assert_same(ours, plain, tolerance):
    """Relative to the largest value of each tensor."""
    assert ours.keys() == plain.keys()
    for name, expected in plain.items():
        assert ours[name] is not None and expected is not None and expected.any(), f'{name} proves nothing'
        scale = expected.abs().max().item()
        torch.testing.assert_close(
            ours[name], expected, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f'{n}: {m}'
        )


def weights(module):
    return dict([*module.named_parameters(), *module.named_buffers()])


def plain(module):
    return lambda x: literal.ss2d(weights(module), x, module.directions, module.state_channels)


# Literal --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'directions', [('right',), ('left',), ('down',), ('up',), ('up', 'right'), ('left', 'right'), ALL], ids='+'.join
)
@pytest.mark.parametrize('size', [(3, 4), (2, 1), (1, 2)], ids=str)
def test_values_and_gradients(size, directions):
    module, x = small(directions=directions), torch.randn(2, 4, *size, dtype=torch.float64)
    assert_same(results(module, module, x), results(plain(module), module, x), 1e-6)


def test_single_precision():
    module, x = small(dtype=torch.float32), torch.randn(2, 4, 4, 5)
    assert_same(results(module, module, x), results(plain(module), module, x), 1e-5)


def test_the_scan_alone_as_it_is_made():
    """Mamba's steps and rates, the default state and heads."""
    module, value = SS2D(16), torch.randn(1, 32, 3, 4)
    expected = literal.scan(weights(module), value, ALL, 16)
    torch.testing.assert_close(module.scan(value), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('chunk', [1, 7, 32, 1000])
def test_the_chunk_changes_nothing(chunk):
    module, x = small(), torch.randn(2, 4, 7, 9, dtype=torch.float64)
    other = SS2D(4, **{**SMALL, 'chunk': chunk}).double().eval()
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(x), module(x), rtol=1e-10, atol=1e-10)


def test_the_chunk_reaches_the_scan(monkeypatch):
    sizes = []

    def spied(value, forward=None, backward=None, chunk=32):
        sizes.append((chunk, forward is not None, backward is not None))
        return original(value, forward, backward, chunk)

    original = ss2d_module.chunked_scan
    monkeypatch.setattr(ss2d_module, 'chunked_scan', spied)
    SS2D(16, chunk=9)(torch.rand(1, 16, 3, 3))
    assert sizes == [(9, True, True)] * 2, 'two opposite directions are one scan'
    sizes.clear()
    SS2D(16, directions=('left',))(torch.rand(1, 16, 3, 3))
    assert sizes == [(32, False, True)]


# Directions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(3, 4), (1, 4), (4, 1)], ids=str)
@pytest.mark.parametrize('direction', ALL)
def test_whom_a_pixel_sees(direction, size):
    """Itself and those before it in reading order ('right'), behind it ('left'), or in order of columns."""
    height, width = size
    module = small(directions=(direction,))
    value = torch.randn(1, 6, *size, dtype=torch.float64, requires_grad=True)
    out = module.scan(value)
    for i in range(height):
        for j in range(width):
            (gradient,) = torch.autograd.grad(out[..., i, j].sum(), value, retain_graph=True)
            places = (gradient.abs().amax((0, 1)) > 1e-9 * gradient.abs().max()).nonzero().tolist()
            seen = {tuple(place) for place in places}
            expected = {
                (a, b)
                for a in range(height)
                for b in range(width)
                if {
                    'right': (a, b) <= (i, j),
                    'left': (a, b) >= (i, j),
                    'down': (b, a) <= (j, i),
                    'up': (b, a) >= (j, i),
                }[direction]
            }
            assert seen == expected, (i, j)


def test_all_directions_are_the_sum_of_each():
    """And every token's own value once."""
    module, value = small(), torch.randn(2, 6, 3, 5, dtype=torch.float64)
    own = value * module.skip.repeat_interleave(3)[:, None, None]
    total = own
    for i, direction in enumerate(ALL):
        alone = small(directions=(direction,))
        alone.select.weight.data = module.select.weight.data.chunk(4)[i]
        alone.step_bias.data, alone.log_rate.data = module.step_bias.data[i : i + 1], module.log_rate.data[i : i + 1]
        alone.skip.data = module.skip.data
        total = total + alone.scan(value) - own
    torch.testing.assert_close(module.scan(value), total, rtol=1e-10, atol=1e-10)


def exchanged(module, order):
    """The same module with the parameters of its directions in another order."""
    other, order = copy.deepcopy(module), list(order)
    other.select.weight.data = torch.cat([module.select.weight.data.chunk(4)[i] for i in order])
    other.step_bias.data, other.log_rate.data = module.step_bias.data[order], module.log_rate.data[order]
    return other


@pytest.mark.parametrize(
    'turn, order',
    [
        (lambda x: x.flip(2, 3), (1, 0, 3, 2)),
        (lambda x: x.transpose(2, 3), (2, 3, 0, 1)),
        (lambda x: x.transpose(2, 3).flip(2, 3), (3, 2, 1, 0)),
    ],
    ids=['half a turn', 'transposed', 'transposed the other way'],
)
def test_turning_the_map_exchanges_the_directions(turn, order):
    """The last row's last pixel becomes the first: right for left and down for up; or rows become columns.

    A mirror image is none of it: its rows are still read from the top.
    """
    module, x = small(), torch.randn(2, 4, 3, 5, dtype=torch.float64)
    other = exchanged(module, order)
    other.local.conv.weight.data = turn(other.local.conv.weight.data)
    torch.testing.assert_close(other(turn(x)), turn(module(x)), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(module(turn(x)), turn(module(x)))


def test_a_mirrored_row_exchanges_right_and_left():
    module, x = small(directions=('right', 'left')), torch.randn(2, 6, 1, 9, dtype=torch.float64)
    other = copy.deepcopy(module)
    other.select.weight.data = torch.cat(module.select.weight.data.chunk(2)[::-1])
    other.step_bias.data, other.log_rate.data = module.step_bias.data.flip(0), module.log_rate.data.flip(0)
    torch.testing.assert_close(other.scan(x.flip(3)), module.scan(x).flip(3), rtol=1e-10, atol=1e-10)


def test_one_direction_by_name():
    assert SS2D(16, directions='up').directions == ('up',)


# Steps and rates ------------------------------------------------------------------------------------------------------


def test_steps_and_rates_at_the_start():
    module = SS2D(128, head_channels=1)  # 4 x 256 heads
    state = {name: x.clone() for name, x in module.state_dict().items()}
    for again in (False, True):
        if again:
            module.skip.data.zero_()
            module.init_weights()
        steps, rates = nn.functional.softplus(module.step_bias), module.log_rate.exp()
        assert 0.00099 < steps.min() < 0.0011 and 0.098 < steps.max() < 0.101, 'from 0.001 to 0.1'
        assert 0.3 < (steps < 0.01).float().mean() < 0.7, 'evenly on a logarithmic scale'
        assert 1 <= rates.min() < 2 and 15 < rates.max() <= 16
        assert 7 < rates.mean() < 10, 'evenly'
        assert (module.skip == 1).all()
    fresh = module.state_dict()
    names = ['step_bias', 'log_rate', 'select.weight', 'in_proj.weight', 'local.conv.weight']
    assert not any(state[name].equal(fresh[name]) for name in names), 'drawn anew'


def test_convolutions_start_as_pytorchs():
    """Uniform within 1 / sqrt(fan in), also that of MMCV's ConvModule."""
    module = SS2D(64)
    module.init_weights()
    for conv, fan_in in ((module.in_proj, 64), (module.local.conv, 9), (module.out_proj, 128)):
        bound = 1 / math.sqrt(fan_in)
        assert 0.9 * bound < conv.weight.abs().max() <= bound


# Parameters, sizes and forms ------------------------------------------------------------------------------------------


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_by_hand():
    """C = 64 with all defaults: 128 inner channels are 4 heads of 32, a state of 16, four directions."""
    by_hand = (64 * 128 + 128) + (128 * 9 + 128) + 128 * 4 * (16 + 16 + 4) + 2 * 4 * 4 + 4 + 128 + (128 * 64 + 64)
    assert count(SS2D(64)) == by_hand
    # C = 12, 24 inner channels are 3 heads of 8, a state of 5, two directions
    by_hand = (12 * 24 + 24) + (24 * 9 + 24) + 24 * 2 * (5 + 5 + 3) + 2 * 2 * 3 + 3 + 24 + (24 * 12 + 12)
    assert count(SS2D(12, 5, 2.0, 8, ('down', 'left'))) == by_hand


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (5, 1), (7, 5), (33, 31)], ids=str)
@pytest.mark.parametrize('batch', [1, 3])
def test_any_size(size, batch):
    x = torch.randn(batch, 16, *size)
    out = stirred(SS2D(16))(x)
    assert out.shape == x.shape and out.isfinite().all()


def test_every_parameter_gets_a_gradient():
    module = SS2D(16)
    weighed(module(torch.randn(2, 16, 5, 7))).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_a_batch_of_two_is_two_of_one():
    module, x = small(), torch.randn(2, 4, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(module(x), torch.cat([module(x[:1]), module(x[1:])]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('half', [torch.bfloat16, torch.float16])
def test_mixed_precision(half):
    module, x = stirred(SS2D(16)), torch.randn(2, 16, 6, 7)
    with torch.autocast('cpu', half):
        out = module(x)
    expected = module(x)
    assert out.dtype == half and out.isfinite().all()
    assert (out - expected).abs().max() < 0.03 * expected.abs().max()


def test_a_louder_map_stays_what_it_is():
    """Value, key, query and step grow with the map, the scan with the fourth power of it; the norm takes that out."""
    module, x = SS2D(16).eval(), torch.randn(2, 16, 9, 12)
    loud = module.scan(module.local(module.in_proj(1e4 * x)))
    assert loud.abs().max() > 1e10
    assert module(1e4 * x).abs().max() < 3 * module(x).abs().max()


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(channels=20),
            r'head_channels=32 of SS2D does not divide its 40 inner channels \(channels=20, expansion=2.0\)',
        ),
        (dict(head_channels=0), r'head_channels=0 of SS2D does not divide its 32 inner channels'),
        (dict(expansion=0.01), r'head_channels=32 of SS2D does not divide its 0 inner channels'),
        (dict(state_channels=0), 'state_channels=0 and chunk=32 of SS2D should be 1 or more'),
        (dict(chunk=0), 'state_channels=16 and chunk=0 of SS2D should be 1 or more'),
        (dict(directions=()), r'directions=\(\) of SS2D should be one or more of .*, each once'),
        (dict(directions=('up', 'up')), r"directions=\('up', 'up'\) of SS2D should be"),
        (dict(directions=('up', 'diagonal')), r"directions=\('up', 'diagonal'\) of SS2D should be"),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=f'^{message}'):
        SS2D(**{'channels': 16, **options})


@pytest.mark.parametrize('size', [(8, 10), (40, 30)], ids=str)
def test_a_traced_graph_serves_other_sizes(size):
    module = small()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # sizes that Python sees
        graph = torch.jit.trace(module, torch.randn(1, 4, *size, dtype=torch.float64), check_trace=False)
    for other in ((1, 1), (3, 5), (8, 10), (40, 41)):
        x = torch.randn(2, 4, *other, dtype=torch.float64)
        torch.testing.assert_close(graph(x), module(x), rtol=1e-9, atol=1e-9)

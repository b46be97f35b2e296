"""DSConv, LSConv, the bottleneck and the neck: two fast forms and a literal one, laws of the snake, sentences."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmscale.hmpe import DSConv, LSConv, SnakeBottleneck, SnakeNeck, snake_conv
from mmscale.hmpe.snake_conv import snake_by_kernel, snake_by_sampling, snake_offsets

from . import literal

FORMS = dict(kernel=snake_by_kernel, sampling=snake_by_sampling)


def snake_inputs(batch, size, taps=9, groups=1, dtype=torch.float32, spread=1.5, seed=0):
    """A map, offsets that are no whole numbers and leave it here and there, weights, what the output is weighed by."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    x, weight = normal(batch, 4, *size), normal(6, 4 // groups, taps)
    return [x, spread * normal(batch, taps, *size), weight], normal(batch, 6, *size)


def values_and_gradients(snake, inputs, weights, *options):
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = snake(*inputs, *options)
    return out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)


def stirred(module, seed=0, std=0.3):
    """With steps and fusion weights that are not at their start."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = std * torch.randn(parameter.shape, generator=generator)
    return module


def images(batch=2, channels=4, size=(6, 7), seed=0):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))


# Forms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('axis', ['x', 'y'])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('size', [(4, 5), (1, 6), (6, 1)], ids=str)
def test_sampling_is_the_literal_form(size, groups, axis):
    """In double precision, values and gradients; the map is smaller than the nine taps."""
    inputs, weights = snake_inputs(2, size, groups=groups, dtype=torch.float64)
    expected = values_and_gradients(literal.snake, inputs, weights, axis, groups)
    for a, b in zip(values_and_gradients(snake_by_sampling, inputs, weights, axis, groups), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize('axis', ['x', 'y'])
@pytest.mark.parametrize('taps', [3, 5])
def test_mmcvs_kernel_is_the_literal_form(taps, axis):
    inputs, weights = snake_inputs(2, (5, 7), taps, groups=2)
    expected = values_and_gradients(literal.snake, inputs, weights, axis, 2)
    for a, b in zip(values_and_gradients(snake_by_kernel, inputs, weights, axis, 2), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('axis', ['x', 'y'])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize(
    ('batch', 'size'), [(1, (9, 9)), (2, (11, 14)), (3, (13, 10)), (33, (9, 10)), (48, (9, 9))], ids=str
)
def test_mmcvs_kernel_is_the_sampling_form(batch, size, groups, axis):
    """For any number of images: the kernel takes up to 32 at a time, as many as divide them."""
    inputs, weights = snake_inputs(batch, size, groups=groups)
    expected = values_and_gradients(snake_by_sampling, inputs, weights, axis, groups)
    for a, b in zip(values_and_gradients(snake_by_kernel, inputs, weights, axis, groups), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('axis', ['x', 'y'])
def test_images_of_a_batch_do_not_meet(form, axis):
    (x, offsets, weight), _ = snake_inputs(3, (9, 10))
    whole = FORMS[form](x, offsets, weight, axis)
    single = [FORMS[form](x[i : i + 1], offsets[i : i + 1], weight, axis) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(single), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_the_other_axis_is_the_turned_map(form):
    (x, offsets, weight), _ = snake_inputs(2, (9, 10))
    other = [each.transpose(2, 3).contiguous() for each in (x, offsets)]
    turned = FORMS[form](*other, weight, 'y').transpose(2, 3)
    torch.testing.assert_close(FORMS[form](x, offsets, weight, 'x'), turned, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_an_offset_of_one_is_the_row_below_and_the_column_to_the_right(form):
    (x, offsets, weight), _ = snake_inputs(1, (9, 10))
    ones = torch.ones_like(offsets)
    below = F.conv2d(F.pad(x[:, :, 1:], (4, 4, 0, 1)), weight[:, :, None])
    torch.testing.assert_close(FORMS[form](x, ones, weight, 'x'), below, atol=1e-5, rtol=1e-5)
    right = F.conv2d(F.pad(x[..., 1:], (0, 1, 4, 4)), weight[..., None])
    torch.testing.assert_close(FORMS[form](x, ones, weight, 'y'), right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_samples_far_outside_are_zero(form):
    (x, offsets, weight), _ = snake_inputs(1, (9, 9))
    for far in (-10.0, 9.0):
        assert not FORMS[form](x, torch.full_like(offsets, far), weight, 'x').any()


# Offsets --------------------------------------------------------------------------------------------------------------


def test_offsets_are_sums_of_steps_outward_from_the_centre():
    for taps in (3, 5, 9):
        steps = torch.randn(2, taps - 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(taps))
        torch.testing.assert_close(snake_offsets(steps), literal.snake_offsets(steps))


@pytest.mark.parametrize('taps', [3, 5, 9])
def test_offsets_are_continuous_and_bounded(taps):
    """Neighbouring taps less than a cell apart, the centre in its place, none beyond T // 2: fig. 5's 9x9 grid."""
    module, x = stirred(DSConv(4, taps), std=0.15), images()
    both = module.offsets(x)
    assert len(both) == 2 and not both[0].equal(both[1])
    for offsets in both:
        assert offsets.shape == (2, taps, 6, 7)
        assert not offsets[:, taps // 2].any()
        assert offsets.diff(dim=1).abs().max() < 1
        assert 0.5 < offsets[:, 0].abs().max() <= taps // 2 and 0.5 < offsets[:, -1].abs().max() <= taps // 2
    nn.init.constant_(module.steps.bias, 100.0)
    for offsets in module.offsets(x):
        expected = torch.arange(-(taps // 2), taps // 2 + 1.0).abs()
        torch.testing.assert_close(offsets, expected.view(1, -1, 1, 1).expand_as(offsets))


def test_every_position_has_its_own_offsets():
    offsets = torch.stack(stirred(DSConv(4)).offsets(images()))[:, :, 0]
    assert offsets.flatten(1).std(dim=1).min() > 0.05
    assert offsets.std(dim=(0, 1)).min() > 0


def test_steps_see_their_neighbours_alone():
    """A 3x3 convolution: what changes at a place moves the snakes one cell around it."""
    module, x = stirred(DSConv(4)), images(1)
    other = x.clone()
    other[..., 3, 3] += 1
    for a, b in zip(module.offsets(x), module.offsets(other), strict=True):
        changed = (a != b).any(1)[0].nonzero()
        assert changed.amin(0).tolist() == [2, 2] and changed.amax(0).tolist() == [4, 4]


# DSConv and LSConv ----------------------------------------------------------------------------------------------------


def strips(x, convs, groups):
    """The straight convolutions 1xT and Tx1, one beside the other."""
    results = []
    for axis, conv in convs.items():
        weight = conv.weight
        half = weight.shape[-1] // 2
        weight, padding = (weight[:, :, None], (0, half)) if axis == 'x' else (weight[..., None], (half, 0))
        results.append(F.conv2d(x, weight, padding=padding, groups=groups))
    return sum(results)


@pytest.mark.parametrize('axes', [('x', 'y'), ('y',), ('x',)], ids=str)
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('size', [(6, 7), (12, 11), (1, 1)], ids=str)
def test_without_learned_offsets_both_branches_are_straight_strips(size, groups, axes):
    x = images(size=size)
    module = DSConv(4, axes=axes, groups=groups)
    torch.testing.assert_close(module(x), strips(x, module.convs, groups), atol=1e-5, rtol=1e-5)
    module = LSConv(4, axes=axes, groups=groups)
    halves = (strips(x, module.convs, groups) + strips(x, module.strips, groups)) / 2
    torch.testing.assert_close(module(x), halves, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(('kernel', 'groups'), [(9, 1), (3, 2)])
def test_dsconv_by_hand(kernel, groups):
    """A 3x3 convolution, tanh, sums outward, a snake of each axis; the first half of the steps is x's."""
    module, x = stirred(DSConv(4, kernel, groups=groups)), images(size=(4, 5))
    steps = torch.tanh(F.conv2d(x, module.steps.weight, module.steps.bias, padding=1))
    parts = dict(zip('xy', steps.split(kernel - 1, dim=1), strict=True))
    snakes = [
        literal.snake(x, literal.snake_offsets(part), module.convs[axis].weight, axis, groups)
        for axis, part in parts.items()
    ]
    torch.testing.assert_close(module(x), sum(snakes), atol=1e-5, rtol=1e-5)


def test_the_order_of_the_axes_is_that_of_the_steps():
    module, x = stirred(DSConv(4, 3, axes=('y', 'x'))), images(size=(4, 5))
    first, second = torch.tanh(module.steps(x)).split(2, dim=1)
    expected = literal.snake(x, literal.snake_offsets(first), module.convs['y'].weight, 'y')
    expected = expected + literal.snake(x, literal.snake_offsets(second), module.convs['x'].weight, 'x')
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


def test_fusion_weights_are_a_softmax_per_channel():
    module, x = stirred(LSConv(4)), images()
    snake = DSConv.forward(module, x)
    linear = strips(x, module.strips, 1)
    share = module.fusion[0].exp() / module.fusion.exp().sum(0)
    torch.testing.assert_close(module(x), share * snake + (1 - share) * linear, atol=1e-5, rtol=1e-5)
    for branch, value in enumerate((snake, linear)):
        nn.init.constant_(module.fusion[branch], 100.0)
        nn.init.constant_(module.fusion[1 - branch], -100.0)
        torch.testing.assert_close(module(x), value)


def test_the_branches_have_weights_of_their_own():
    module = LSConv(8, 5, groups=2)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        'fusion': (2, 8, 1, 1),
        'steps.weight': (8, 8, 3, 3),
        'steps.bias': (8,),
        **{f'{branch}.{axis}.weight': (8, 4, 5) for branch in ('convs', 'strips') for axis in 'xy'},
    }


@pytest.mark.parametrize('cls', [DSConv, LSConv])
def test_the_start_is_straight_and_balanced_also_after_a_life(cls):
    module = stirred(cls(16))
    module.init_weights()
    assert not module.steps.weight.any() and not module.steps.bias.any()
    bound = (16 * 9) ** -0.5  # PyTorch's own
    for conv in module.convs.values():
        assert 0.9 * bound < conv.weight.abs().max() <= bound
    if cls is LSConv:
        assert not module.fusion.any()


@pytest.mark.parametrize('cls', [DSConv, LSConv])
def test_every_parameter_gets_a_gradient_at_the_start(cls):
    """The steps, too, which are zero."""
    module = cls(4)
    module.init_weights()
    module(images()).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize('cls', [DSConv, LSConv])
def test_a_snake_learns_to_bend(cls):
    """A target which is the map moved down by half a cell: the strips alone cannot, the snake can."""
    torch.manual_seed(0)
    module, x = cls(2, 3, axes=('x',)), F.avg_pool2d(images(4, 2, (16, 16)), 5, 1, 2)
    target = (x + x.roll(-1, dims=2)) / 2
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=0.02), []
    for _ in range(40):
        loss = (module(x) - target)[:, :, :-1].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0] and module.steps.bias.abs().max() > 0.05


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(kernel_size=8), 'kernel_size=8 of a snake must be odd and at least 3'),
        (dict(kernel_size=1), 'kernel_size=1 of a snake must be odd and at least 3'),
        (dict(axes=()), r"axes=\(\) of a snake must be of 'x' and 'y'"),
        (dict(axes=('x', 'x')), r"axes=\('x', 'x'\) of a snake must be of 'x' and 'y'"),
        (dict(axes=('x', 'z')), r"axes=\('x', 'z'\) of a snake must be of 'x' and 'y'"),
        (dict(groups=3), 'channels=4 of a snake must be a multiple of groups=3'),
        (dict(groups=0), 'channels=4 of a snake must be a multiple of groups=0'),
    ],
    ids=str,
)
@pytest.mark.parametrize('cls', [DSConv, LSConv])
def test_a_wrong_option_is_one_sentence(cls, options, sentence):
    with pytest.raises(ValueError, match=f'^{sentence}$'):
        cls(4, **options)


# Which form runs where ------------------------------------------------------------------------------------------------


class OnGPU(torch.Tensor):
    """A tensor of the CPU that says that it is not."""

    is_cuda = property(lambda self: True)


@pytest.fixture
def calls(monkeypatch):
    """The names of the forms that ran; the kernel gets plain tensors."""
    names = []

    def spy(name, form):
        def run(*args):
            names.append(name)
            return form(*[x.as_subclass(torch.Tensor) if isinstance(x, torch.Tensor) else x for x in args])

        monkeypatch.setattr(snake_conv, f'snake_by_{name}', run)

    for name, form in FORMS.items():
        spy(name, form)
    return names


def test_a_cpu_samples(calls):
    LSConv(4)(images(size=(12, 12)))
    assert calls == ['sampling'] * 2


def test_a_gpu_runs_the_kernel_with_the_same_values(calls):
    module, x = stirred(LSConv(4)), images(size=(12, 11))
    expected = module(x)
    calls.clear()
    found = module(x.as_subclass(OnGPU))
    assert calls == ['kernel'] * 2
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('size', [(3, 4), (4, 12), (12, 4), (1, 1)], ids=str)
def test_a_gpu_takes_maps_smaller_than_the_kernel(size):
    """MMCV's convolution refuses an axis shorter than its taps: at stride 32 that is an image below 288 pixels."""
    module, x = stirred(LSConv(4)), images(size=size)
    found = module(x.as_subclass(OnGPU)).as_subclass(torch.Tensor)
    torch.testing.assert_close(found, module(x), atol=1e-4, rtol=1e-4)


def test_a_graph_samples_also_on_a_gpu(calls, monkeypatch):
    monkeypatch.setattr(torch.jit, 'is_tracing', lambda: True)
    LSConv(4)(images(size=(12, 12)).as_subclass(OnGPU))
    assert calls == ['sampling'] * 2


def test_a_gpu_takes_maps_in_any_memory_format(calls):
    module, x = stirred(LSConv(4)), images(size=(12, 11))
    expected = module(x)
    calls.clear()
    found = module(x.contiguous(memory_format=torch.channels_last).as_subclass(OnGPU))
    assert calls == ['kernel'] * 2
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('cls', [DSConv, LSConv])
def test_a_traced_graph_keeps_the_sizes_open(cls):
    module = stirred(cls(4)).eval()
    with torch.no_grad():
        graph = torch.jit.trace(module, images(size=(6, 7)), check_trace=False)
        for size in ((6, 7), (11, 5), (3, 3)):
            x = images(3, size=size)
            torch.testing.assert_close(graph(x), module(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('cls', [DSConv, LSConv])
def test_under_mixed_precision_snakes_are_sampled_in_single(cls):
    """Half a cell of eight bits is too coarse; what comes back has the map's kind."""
    module, x = stirred(cls(4)), images(size=(20, 40))
    with torch.autocast('cpu', torch.bfloat16):
        out = module(x)
        half = module(x.bfloat16())
    assert out.dtype is torch.float32 and half.dtype is torch.bfloat16
    exact = module(x)
    assert (out - exact).abs().mean() < 0.03 * exact.abs().mean()
    assert (half - exact).abs().mean() < 0.03 * exact.abs().mean()


def test_taps_are_placed_in_single_precision_under_mixed_precision(monkeypatch):
    seen = []

    def spy(x, offsets, weight, axis, groups):
        seen.extend([x.dtype, offsets.dtype, weight.dtype, torch.is_autocast_enabled('cpu')])
        return x

    monkeypatch.setattr(snake_conv, 'snake_by_sampling', spy)
    with torch.autocast('cpu', torch.bfloat16):
        DSConv(4)(images().bfloat16())
    assert set(seen) == {torch.float32, False}


# The bottleneck and the neck ------------------------------------------------------------------------------------------


def test_the_bottleneck_by_hand():
    block = SnakeBottleneck(8, dict(type='mmscale.DSConv', kernel_size=5), width=4).train()
    stirred(block.body[1])
    x = images(channels=8)

    def normed(x):
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        return (x - mean) / (var + 1e-5).sqrt()

    first, snake, _, _, last = block.body
    assert snake.kernel_size == 5
    hidden = F.silu(normed(F.conv2d(x, first.conv.weight)))
    hidden = F.silu(normed(snake(hidden)))
    torch.testing.assert_close(block(x), x + normed(F.conv2d(hidden, last.conv.weight)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(('channels', 'told', 'width'), [(32, None, 8), (2, None, 1), (32, 5, 5)])
def test_the_bottlenecks_width_is_a_quarter_or_as_told(channels, told, width):
    conv = dict(type='mmscale.LSConv')
    block = SnakeBottleneck(channels, conv, told)
    assert block.body[1].channels == width and block.body[0].conv.out_channels == width
    assert SnakeNeck([channels], conv, told).blocks[0].body[1].channels == width
    assert conv == dict(type='mmscale.LSConv'), 'the config is not changed'


def test_the_bottleneck_starts_with_straight_snakes():
    block = stirred(SnakeBottleneck(16, dict(type='mmscale.LSConv')))
    block.init_weights()
    assert not block.body[1].steps.weight.any() and not block.body[1].fusion.any()
    assert block.body[0].conv.weight.abs().max() <= 0.25, "PyTorch's own"
    block(images(channels=16)).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in block.parameters())


def test_norm_and_activation_are_exchangeable():
    gn = dict(type='GN', num_groups=2)
    block = SnakeBottleneck(8, dict(type='mmscale.DSConv'), 4, gn, dict(type='ReLU'))
    assert sum(isinstance(m, nn.GroupNorm) for m in block.modules()) == 3
    assert sum(isinstance(m, nn.ReLU) for m in block.modules()) == 2
    assert not any(isinstance(m, nn.BatchNorm2d | nn.SiLU) for m in block.modules())


def pyramid():
    return [images(channels=c, size=s) for c, s in ((8, (6, 7)), (16, (3, 4)), (8, (1, 1)))]


@pytest.mark.parametrize('levels', [None, [0, 2], [1]], ids=str)
def test_the_neck_bends_the_levels_that_it_is_told(levels):
    neck = SnakeNeck([8, 16, 8], dict(type='mmscale.DSConv'), levels=levels).eval()
    inputs = pyramid()
    outs = neck(inputs)
    levels = [0, 1, 2] if levels is None else levels
    blocks = dict(zip(levels, neck.blocks, strict=True))
    for level, (out, x) in enumerate(zip(outs, inputs, strict=True)):
        assert out.equal(blocks[level](x)) if level in blocks else out is x
        assert out.shape == x.shape
    assert isinstance(outs, tuple) and neck.out_channels == [8, 16, 8]


def test_the_necks_snake_is_lsconv_unless_told():
    assert type(SnakeNeck([8]).blocks[0].body[1]) is LSConv
    assert type(SnakeNeck([8], dict(type='mmscale.DSConv')).blocks[0].body[1]) is DSConv
    assert type(SnakeNeck([8], dict(type=DSConv)).blocks[0].body[1]) is DSConv


def test_the_neck_leaves_the_maps_that_it_got():
    inputs = pyramid()
    before = [x.clone() for x in inputs]
    SnakeNeck([8, 16, 8])(inputs)
    assert all(a.equal(b) for a, b in zip(inputs, before, strict=True)) and len(inputs) == 3


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(levels=[3]), r'levels=\[3\] names level 3, but in_channels=\[8, 16, 8\]'),
        (dict(levels=[0, -1]), r'levels=\[0, -1\] names level -1, but in_channels=\[8, 16, 8\]'),
        (dict(conv=dict(groups=2)), r"conv=\{'groups': 2\} must say its type, 'mmscale.DSConv' or 'mmscale.LSConv'$"),
        (
            dict(conv=dict(type='mmscale.DSConv', kernel=3)),
            'conv has no option kernel=3: its options are kernel_size, axes, groups, init_cfg',
        ),
        (dict(conv=dict(type='mmscale.LSConv', kernel_size=4)), 'kernel_size=4 of a snake must be odd'),
        (dict(conv=dict(type='mmscale.LSConv', channels=4)), 'conv.channels=4 cannot be set: it is the width'),
        (dict(width=0), 'width=0 of a snake bottleneck must be at least 1'),
    ],
    ids=str,
)
def test_a_wrong_neck_is_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=f'^{sentence}'):
        SnakeNeck([8, 16, 8], **options)


def test_maps_of_another_width_are_one_sentence():
    with pytest.raises(ValueError, match=r'maps with \[8, 16\] channels, but in_channels=\[8, 16, 8\]'):
        SnakeNeck([8, 16, 8])(pyramid()[:2])


def test_offsets_are_in_single_precision_under_mixed_precision():
    snake = DSConv(4)
    torch.nn.init.normal_(snake.steps.weight)
    x = images()
    expected = snake.offsets(x)
    with torch.autocast('cpu', torch.bfloat16):
        offsets = snake.offsets(x)
    for each, other in zip(offsets, expected, strict=True):
        assert each.dtype is torch.float32
        torch.testing.assert_close(each, other)

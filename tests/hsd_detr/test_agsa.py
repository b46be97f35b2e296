"""AGSA and DSAIFI against loops over images, rows and ranks; how many keys are kept; and how the gate learns."""

import pytest
import torch
from mmengine.registry import init_default_scope
from torch import nn

from mmscale.hsd_detr import AGSA, DSAIFI

from . import literal
from .test_ss2d import assert_same, results, weighed

GATES = pytest.mark.parametrize('gate', ['straight_through', 'literal'])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    init_default_scope('mmdet')


def stirred_weights(module, dtype=torch.float64):
    """Weights at which scores, norms and the gate differ from position to position and from image to image."""
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, std=0.2 if 'gate' in name else 0.5)
        if 'norm' in name and name.endswith('weight'):
            nn.init.uniform_(parameter, 0.5, 1.5)
    return module.to(dtype)


def small(channels=16, dtype=torch.float64, **options):
    return stirred_weights(AGSA(channels, **options), dtype)


def fixed(module, rho):
    """The module with a gate that retains the same share of every image."""
    nn.init.zeros_(module.gate[2].weight)
    nn.init.constant_(module.gate[2].bias, torch.logit(torch.tensor(float(rho), dtype=torch.float64)).item())
    return module


def parameters(module):
    return dict(module.named_parameters())


def images(batch=2, channels=16, size=(4, 5), dtype=torch.float64):
    """Noise of a strength of its own in every image."""
    strength = torch.linspace(0.3, 3, batch, dtype=dtype)[:, None, None, None]
    return torch.randn(batch, channels, *size, dtype=dtype) * strength


def weights_of(module, x):
    """The attention that a forward pass takes, ``(B, D, N, N)``."""
    seen, original = [], module.attention

    def spied(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    module.attention = spied
    module(x)
    del module.attention
    return seen[0]


# Literal --------------------------------------------------------------------------------------------------------------


def without_gate(found):
    """The gate's gradients, which are zero in the literal form, checked and left out."""
    for name in [name for name in found if name.startswith(('gate.', 'agsa.gate.'))]:
        gradient = found.pop(name)
        assert gradient is None or not gradient.any(), name
    return found


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize(
    'options, active',
    [({}, 4), (dict(num_heads=2), 4), (dict(active_ratio=0.5, num_heads=4), 8), (dict(active_ratio=1.0), 16)],
    ids=str,
)
def test_agsa_values_and_gradients(options, active, training):
    module, x = small(gate='literal', **options).train(training), images()
    heads = options.get('num_heads', 1)
    ours = without_gate(results(module, module, x))
    plain = without_gate(results(lambda x: literal.agsa(parameters(module), x, active, heads), module, x))
    assert_same(ours, plain, 1e-9)


@pytest.mark.parametrize('rho', [1e-6, 0.3, 0.999])
def test_agsa_in_single_precision(rho):
    module, x = fixed(small(gate='literal', dtype=torch.float32), rho), images(dtype=torch.float32)
    ours = without_gate(results(module, module, x))
    plain = without_gate(results(lambda x: literal.agsa(parameters(module), x, 4), module, x))
    one = ours.pop('out')
    assert_same(dict(out=one), dict(out=plain.pop('out')), 1e-5)
    if rho > 0.1:  # the softmax of one key is constant
        assert_same(ours, plain, 1e-5)


@GATES
def test_agsa_values_whatever_the_gate(gate):
    module, x = small(gate=gate), images(3, size=(3, 5))
    for training in (False, True):
        expected = literal.agsa(parameters(module), x, 4)
        torch.testing.assert_close(module.train(training)(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('kernel', [1, 3])
def test_dsaifi_values_and_gradients(kernel):
    module = stirred_weights(
        DSAIFI(16, feedforward_channels=6, feedforward_kernel_size=kernel, agsa=dict(gate='literal', num_heads=2))
    )
    x = images(size=(3, 4))
    ours = without_gate(results(module, module, x))
    plain = without_gate(results(lambda x: literal.dsaifi(parameters(module), x, 4, 2), module, x))
    assert_same(ours, plain, 1e-9)


def test_dsaifi_in_single_precision():
    module, x = stirred_weights(DSAIFI(16, 6), torch.float32).eval(), images(size=(3, 4), dtype=torch.float32)
    torch.testing.assert_close(module(x), literal.dsaifi(parameters(module), x, 4), rtol=1e-5, atol=1e-5)


# Keys -----------------------------------------------------------------------------------------------------------------


@GATES
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('heads', [1, 2])
def test_k_keys_of_every_row_by_image(heads, training, gate):
    """K = floor(rho * N), another for each image; a row's weights sum to one, and are those of its strongest keys."""
    module, x = small(num_heads=heads, gate=gate).train(training), images(4, size=(5, 6))
    weights, rho = weights_of(module, x), module.rho(x)
    numbers = [max(1, int(share * 30)) for share in rho.tolist()]
    assert len(set(numbers)) == 4, numbers
    assert weights.shape == (4, heads, 30, 30)
    for image, number in enumerate(numbers):
        assert ((weights[image] > 0).sum(-1) == number).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, heads, 30, dtype=torch.float64))


def test_by_hand():
    """Scores of 4, 1, 3 and 2 times log 2 and half of the keys: the first and the third, as 2 to 1."""
    query, key = torch.ones(1, 1, 4, 1), torch.tensor([4.0, 1, 3, 2]).view(1, 1, 4, 1) * torch.tensor(2.0).log()
    weights = AGSA(4).attention(query, key, torch.tensor([0.5]))
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 0, 1 / 3, 0]).expand(1, 1, 4, 4))
    query, key = (x.repeat(1, 1, 1, 4) / 2**0.5 for x in (query, key))  # four channels: twice the sum, halved again
    torch.testing.assert_close(AGSA(4).attention(query, key, torch.tensor([0.5])), weights)


@pytest.mark.parametrize(
    'rho, number',
    [(0.0, 1), (0.01, 1), (0.0999, 1), (0.1, 1), (0.19, 1), (0.2, 2), (0.5, 5), (0.59, 5), (0.99, 9), (1.0, 10)],
)
def test_floor_and_at_least_one(rho, number):
    query, key = torch.randn(2, 1, 1, 10, 3, dtype=torch.float64)
    weights = AGSA(16).attention(query, key, torch.tensor([rho], dtype=torch.float64) + 1e-12 * (0 < rho < 1))
    assert (weights > 0).sum(-1).unique().tolist() == [number]


@GATES
@pytest.mark.parametrize('heads', [1, 2])
def test_all_keys_are_ordinary_attention(heads, gate):
    module, x = small(num_heads=heads, gate=gate), images()
    nn.init.constant_(module.gate[2].bias, 1e3)
    tokens = module.norm(x[:, :4].flatten(2).transpose(1, 2))
    query, key, value = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in module.qkv(tokens).chunk(3, dim=2))
    attended = nn.functional.scaled_dot_product_attention(query, key, value)
    attended = attended.transpose(1, 2).flatten(2).transpose(1, 2).view(2, 4, 4, 5)
    expected = module.proj(torch.cat((attended, x[:, 4:]), dim=1))
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)


@GATES
def test_hardly_any_keys_are_the_strongest_one(gate):
    module, x = small(gate=gate), images()
    nn.init.constant_(module.gate[2].bias, -1e3)
    weights = weights_of(module, x)
    tokens = module.norm(x[:, :4].flatten(2).transpose(1, 2))
    query, key, _ = module.qkv(tokens).chunk(3, dim=2)
    best = (query @ key.transpose(1, 2)).argmax(-1)
    assert weights[:, 0].equal(nn.functional.one_hot(best, 20).to(weights))


@pytest.mark.parametrize('training', [False, True])
def test_ties_keep_exactly_k(training):
    """All positions of a constant image are alike; so are two halves of an image."""
    module = fixed(small(), 0.37).train(training)
    x = images(size=(1, 1)).expand(2, 16, 4, 5).clone()
    half = x.clone()
    half[:, :, :2] += 1
    for image in (x, half):
        weights = weights_of(module, image)
        assert ((weights > 0).sum(-1) == 7).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, 20, dtype=torch.float64))


def test_large_scores_stay_finite():
    module, x = small(dtype=torch.float32), images(dtype=torch.float32)
    module.qkv.weight.data *= 1e3
    x.requires_grad_()
    out = module(x)
    out.square().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


# The gate -------------------------------------------------------------------------------------------------------------


def test_the_gate_reads_mean_and_deviation_of_every_channel():
    module, x = small(), images(size=(3, 5))
    assert module.gate[0].in_features == 32
    shuffled = x.flatten(2)[..., torch.randperm(15)].view(x.shape)
    torch.testing.assert_close(module.rho(shuffled), module.rho(x))
    for changed in (x + 1, x * 2 - x.mean((2, 3), keepdim=True)):  # another mean, another deviation
        assert (module.rho(changed) - module.rho(x)).abs().max() > 1e-3
    assert module.rho(x).shape == (2,) and module.rho(x[:1]).shape == (1,)


@pytest.mark.parametrize('size', [(1, 1), (2, 2)], ids=str)
def test_the_deviation_of_a_constant_has_a_finite_gradient(size):
    module, x = small(), torch.ones(2, 16, *size, dtype=torch.float64, requires_grad=True)
    module.rho(x).sum().backward()
    assert x.grad.isfinite().all()


def gate_gradients(gate, training=True, **options):
    module, x = small(gate=gate, **options).train(training), images()
    weighed(module(x)).backward()
    return [p.grad for p in module.gate.parameters()]


def test_the_gate_learns():
    assert all(gradient is not None and gradient.any() for gradient in gate_gradients('straight_through'))
    for gradient in (*gate_gradients('literal'), *gate_gradients('straight_through', training=False)):
        assert gradient is None or not gradient.any()


def test_the_gates_agree_in_their_values():
    """Straight-through: what comes out is the hard mask's, bit by bit."""
    x = images(3)
    ours = small(gate='straight_through').train()
    theirs = AGSA(16, gate='literal').double().train()
    theirs.load_state_dict(ours.state_dict())
    assert ours(x).equal(theirs(x)) and ours(x).equal(ours.eval()(x))


def test_the_gates_agree_in_all_other_gradients():
    """But the input's, of which the gate's are a part."""
    ours = small(gate='straight_through').train()
    theirs = AGSA(16, gate='literal').double().train()
    theirs.load_state_dict(ours.state_dict())
    x = images()
    found, expected = (results(module, module, x) for module in (ours, theirs))
    assert not torch.allclose(found.pop('input'), expected.pop('input'))
    named = [name for name in found if not name.startswith('gate.')]
    assert_same({name: found[name] for name in named}, {name: expected[name] for name in named}, 1e-10)


@pytest.mark.parametrize('temperature', [0.1, 0.3])
def test_the_straight_through_gradient_by_hand(temperature):
    """That of weights m_r e_r / sum of m e at the hard mask, times the slope of sigmoid((rho - (r + 1/2) / N) / T)."""
    count = 7
    query, key = torch.randn(2, 2, 1, count, 3, dtype=torch.float64)
    loss_of = torch.randn(2, 1, count, count, dtype=torch.float64)
    rho = torch.tensor([0.31, 0.78], dtype=torch.float64, requires_grad=True)
    module = AGSA(16, temperature=temperature).train()
    (gradient,) = torch.autograd.grad((module.attention(query, key, rho) * loss_of).sum(), rho)
    expected = []
    for image in range(2):
        share, total = rho[image].item(), 0.0
        number = int(share * count)
        for row in range(count):
            scores = (query[image, 0, row] * key[image, 0]).sum(1) / 3**0.5
            order = sorted(range(count), key=lambda j: -scores[j])
            e = [scores[j].exp().item() for j in order]
            kept = sum(e[:number])
            slopes = []
            for r in range(count):
                soft = 1 / (1 + 2.718281828459045 ** (-(share - (r + 0.5) / count) / temperature))
                slopes.append(soft * (1 - soft) / temperature)
            for r in range(count):
                for other in range(count):  # of the weight at rank r by the mask at rank other
                    own = e[r] / kept if r == other else 0.0
                    mask = 1.0 if r < number else 0.0
                    by_mask = own - mask * e[r] * e[other] / kept**2
                    total += loss_of[image, 0, row, order[r]].item() * by_mask * slopes[other]
        expected.append(total)
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('more_helps', [True, False])
def test_the_gradient_points_where_the_loss_falls(more_helps):
    """Weaker keys that have what is asked for, or spoil it: the gradient agrees with the loss at other numbers."""
    key = torch.linspace(1, 0, 10, dtype=torch.float64).view(1, 1, 10, 1)
    value = torch.linspace(0, 1, 10, dtype=torch.float64).view(1, 1, 10, 1) * (1 if more_helps else -1)
    module = AGSA(4).train()

    def loss(rho):
        return -(module.attention(torch.ones_like(key), key, rho) @ value).sum()

    for share in (0.25, 0.45, 0.65):
        rho = torch.tensor([share], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(rho), rho)
        change = loss(rho.detach() + 0.2) - loss(rho.detach() - 0.2)
        assert (slope < 0) == (change < 0) == more_helps
        assert 0.2 < (slope * 0.4 / change).item() < 5, 'and by about as much'


@pytest.mark.parametrize('more_helps', [True, False])
def test_training_moves_the_gate(more_helps):
    """A few steps on the gate alone retain more keys, or fewer."""
    key = torch.linspace(1, 0, 10).view(1, 1, 10, 1)
    value = torch.linspace(0, 1, 10).view(1, 1, 10, 1) * (1 if more_helps else -1)
    module, x = AGSA(4).train(), images(1, 4, dtype=torch.float32)
    optimizer = torch.optim.SGD(module.gate.parameters(), lr=1.0)
    before = module.rho(x).item()
    for _ in range(20):
        optimizer.zero_grad()
        (-(module.attention(torch.ones_like(key), key, module.rho(x)) @ value).mean()).backward()
        optimizer.step()
    assert (module.rho(x).item() - before > 0.1) if more_helps else (before - module.rho(x).item() > 0.1)


# Channels, positions, batches -----------------------------------------------------------------------------------------


def test_passive_channels_are_not_attended():
    """Before the projection they are the input's own; a position sees only its own."""
    module, x = small(), images()
    seen = []
    module.proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module(x)
    assert seen[0][:, 4:].equal(x[:, 4:])
    module = fixed(module, 0.5)  # that the gate does not see them either
    other = x.clone()
    other[:, 4:, 1, 2] += 1
    changed = (module(other) != module(x)).any(1)
    assert changed.nonzero().tolist() == [[0, 1, 2], [1, 1, 2]]
    other = x.clone()
    other[:, :4, 1, 2] += torch.randn(4, dtype=torch.float64)
    assert (module(other) != module(x)).any(1).sum() > 10, 'active ones do'


@pytest.mark.parametrize('gate', ['straight_through', 'literal'])
def test_permuting_positions_permutes_the_output(gate):
    """There is no positional encoding."""
    module = stirred_weights(DSAIFI(16, 6, agsa=dict(gate=gate)))
    x, order = images(size=(4, 5)), torch.randperm(20)
    shuffled = x.flatten(2)[..., order].view(x.shape)
    expected = module(x).flatten(2)[..., order].view(x.shape)
    torch.testing.assert_close(module(shuffled), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('training', [False, True])
def test_a_batch_of_two_is_two_of_one(training):
    module, x = stirred_weights(DSAIFI(16, 6)).train(training), images()
    torch.testing.assert_close(module(x), torch.cat([module(x[:1]), module(x[1:])]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (5, 1), (7, 5)], ids=str)
def test_any_size(size):
    x = images(size=size, dtype=torch.float32)
    out = DSAIFI(16, 6)(x)
    assert out.shape == x.shape and out.isfinite().all()


@pytest.mark.parametrize('half', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('training', [False, True])
def test_mixed_precision(training, half):
    """The share of keys stays in single precision; with all keys retained no rank can flip, and values are close."""
    module, x = fixed(AGSA(16), 1 - 1e-9).train(training), images(dtype=torch.float32)
    expected = module(x)
    with torch.autocast('cpu', half):
        out, rho = module(x), module.rho(x.to(half))
    assert out.isfinite().all() and rho.dtype == torch.float32
    assert (out - expected).abs().max() < 0.03 * expected.abs().max()
    module = DSAIFI(16, 6).train(training)
    with torch.autocast('cpu', half):
        out = module(x)
        weights = weights_of(module.agsa, x)
    out.float().square().sum().backward()
    assert out.isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    numbers = [max(1, int(share * 20)) for share in module.agsa.rho(x).tolist()]
    assert [(w > 0).sum(-1).unique().tolist() for w in weights] == [[n] for n in numbers]
    assert weights.dtype == torch.float32

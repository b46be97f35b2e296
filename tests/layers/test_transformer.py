import copy

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from mmscale.layers import SelfAttention, TransformerLayer


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def layer(channels=12, num_heads=3, feedforward_channels=20, **options):
    """A layer whose norms and biases do something."""
    module = TransformerLayer(channels, num_heads, feedforward_channels, **options)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return module


def pytorchs(ours, activation='gelu', dropout=0.0):
    """PyTorch's layer of the same formula with the weights of ours, and the names of the weights there by ours."""
    attention, hidden = ours.attention, ours.feedforward[0]
    theirs = nn.TransformerEncoderLayer(
        hidden.in_features,
        attention.num_heads,
        hidden.out_features,
        dropout,
        activation,
        batch_first=True,
        norm_first=True,
    )
    names = {
        'attention.qkv.weight': 'self_attn.in_proj_weight',
        'attention.qkv.bias': 'self_attn.in_proj_bias',
        'attention.proj.': 'self_attn.out_proj.',
        'feedforward.0.': 'linear1.',
        'feedforward.3.': 'linear2.',
    }
    renamed = {}
    for name in ours.state_dict():
        old, new = next(((old, new) for old, new in names.items() if name.startswith(old)), ('', ''))
        renamed[name] = name.replace(old, new, 1)
    theirs.load_state_dict({renamed[name]: value for name, value in ours.state_dict().items()})
    return theirs, renamed


@pytest.mark.parametrize('activation', ['gelu', 'relu'])
@pytest.mark.parametrize('length', [1, 7, 30])
def test_equals_pytorchs_pre_norm_layer(activation, length):
    ours = layer(act_cfg=None if activation == 'gelu' else dict(type='ReLU'))
    theirs, renamed = pytorchs(ours, activation)
    results = []
    for module in (ours, theirs):
        x = torch.randn(2, length, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = module(x)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
        results.append((out, x.grad, gradients))
    (out, from_out, ours_by_name), (expected, from_expected, theirs_by_name) = results
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(from_out, from_expected, rtol=1e-5, atol=1e-5)
    assert {renamed[name] for name in ours_by_name} == theirs_by_name.keys()
    for name, gradient in ours_by_name.items():
        torch.testing.assert_close(gradient, theirs_by_name[renamed[name]], rtol=1e-5, atol=1e-5)
        assert (gradient != 0).any() or length == 1, name
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))  # PyTorch's path for inference


def test_dropout_acts_where_pytorchs_layer_has_it():
    """On what both parts add; with all dropped, the tokens pass as they are. Nowhere in evaluation."""
    ours, x = layer(dropout=1.0), torch.randn(2, 7, 12)
    assert torch.equal(ours(x), x)
    assert not torch.allclose(ours.eval()(x), x)
    torch.testing.assert_close(ours(x), pytorchs(ours, dropout=1.0)[0].eval()(x))
    half = layer(dropout=0.5)
    assert not torch.equal(half(x), half(x)) and torch.equal(half.eval()(x), half(x))


def test_dropout_of_the_attention_weights():
    """Tokens of value 1 under identity weights: a row of weights that keep their sum gives 1, a thinned one not."""
    attention = SelfAttention(4, num_heads=1, dropout=0.5)
    for parameter in attention.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(attention.qkv.bias)
    nn.init.eye_(attention.proj.weight)
    out = attention(torch.randn(1, 50, 4)).detach()
    assert 0.08 < out[..., 0].std() < 0.25 and out.mean() == pytest.approx(1, abs=0.1)  # 1 / sqrt(50) is expected
    torch.testing.assert_close(attention.eval()(torch.randn(1, 50, 4)), torch.ones(1, 50, 4))


def test_permuted_tokens_give_permuted_outputs():
    module, x, order = layer(), torch.randn(2, 30, 12), torch.randperm(30)
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order])


def test_batch_of_two_is_two_batches_of_one():
    module, x = layer(), torch.randn(2, 30, 12)
    torch.testing.assert_close(module(x), torch.cat([module(x[:1]), module(x[1:])]))


def test_zero_weights_are_the_identity():
    """Both parts are added to what they started from: with nothing to add, the tokens stay."""
    module, x = layer(), torch.randn(2, 7, 12)
    for linear in (module.attention.proj, module.feedforward[3]):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    assert torch.equal(module(x), x)


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operator gives back, backward passes included."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            self.numel = max(self.numel, x.numel() if torch.is_tensor(x) else 0)
        return out


@pytest.mark.parametrize('training', [False, True])
def test_no_matrix_of_all_pairs_of_tokens(training):
    """The largest of 600 tokens is the hidden layer; PyTorch's plain formula holds 600 x 600 for each of the heads."""
    module = TransformerLayer(16, num_heads=2, feedforward_channels=64).train(training)

    def largest():
        x = torch.randn(1, 600, 16, requires_grad=training)
        with Largest() as seen, torch.set_grad_enabled(training):
            out = module(x)
            if training:
                out.sum().backward()
        return seen.numel

    assert largest() == 600 * 64
    with sdpa_kernel(SDPBackend.MATH):
        assert largest() == 2 * 600 * 600


def test_bfloat16_autocast_stays_close():
    module, x = TransformerLayer(32, num_heads=4, feedforward_channels=64), torch.randn(2, 30, 32)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = module(x)
    torch.testing.assert_close(mixed.float(), module(x), rtol=0.03, atol=0.03)
    mixed.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in module.parameters())


def test_derivatives_are_exact():
    module = layer(4, 2, 6).double()
    assert torch.autograd.gradcheck(module, torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True))


def test_copies_and_checkpoints(tmp_path):
    module, other, x = layer(), layer(), torch.randn(2, 7, 12)
    assert not torch.allclose(module(x), other(x))
    torch.save(module.state_dict(), tmp_path / 'layer.pth')
    other.load_state_dict(torch.load(tmp_path / 'layer.pth', weights_only=True))
    assert torch.equal(module(x), other(x)) and torch.equal(copy.deepcopy(module)(x), other(x))


def test_parameters_by_hand():
    """C = 256 and 384 hidden: 4 (C^2 + C) of attention, 2 * 384 C + 384 + C of the feed-forward part, 4 C of norms."""
    count = sum(p.numel() for p in TransformerLayer(256, 8, 384).parameters())
    assert count == 4 * (256**2 + 256) + 2 * 384 * 256 + 384 + 256 + 4 * 256 == 461_440


@pytest.mark.parametrize('channels, num_heads', [(12, 5), (12, 0), (12, -3), (12, 24)])
def test_heads_that_do_not_divide_the_channels(channels, num_heads):
    with pytest.raises(
        ValueError, match=f'^channels={channels} of an attention must be a multiple of num_heads={num_heads}$'
    ):
        TransformerLayer(channels, num_heads, 8)

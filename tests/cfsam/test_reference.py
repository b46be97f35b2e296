"""The module against its literal form, which shares no code with it."""

import pytest
import torch

from mmscale.cfsam import CFSAM

from . import literal

WIDTHS = [3, 5, 4]
SIZES = {12: [(2, 3), (2, 2), (1, 2)], 17: [(3, 4), (2, 2), (1, 1)], 14: [(3, 3), (2, 2), (1, 1)]}  # by tokens
STAGES = ('lfe', 'gfe', 'ffr')


def results(forward, module, inputs):
    """Outputs, and the gradients of inputs and parameters under a loss in which no two values weigh the same."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    outs = forward(inputs)
    loss = sum((out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum() for out in outs)
    named = dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, [*inputs, *named.values()])
    names = [*(f'out {i}' for i in range(len(outs))), *(f'input {i}' for i in range(len(inputs))), *named]
    return dict(zip(names, [*outs, *gradients], strict=True))


def check(tokens, num_parts, stages=STAGES, levels=None, dtype=torch.float64, tolerance=1e-10):
    torch.manual_seed(0)
    options = dict(num_parts=num_parts, num_layers=2, num_heads=2)
    module = CFSAM(WIDTHS, channels=4, feedforward_channels=6, levels=levels, stages=stages, **options).to(dtype)
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -0.7, 0.7)  # norms and biases that do something
    inputs = [torch.randn(2, c, *size, dtype=dtype) for c, size in zip(WIDTHS, SIZES[tokens], strict=True)]
    weights = dict(module.named_parameters())
    levels = range(len(WIDTHS)) if levels is None else levels
    ours = results(module, module, inputs)
    plain = results(lambda x: literal.cfsam(weights, x, levels=levels, stages=stages, **options), module, inputs)
    assert ours.keys() == plain.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(
            ours[name], expected, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f'{n}: {m}'
        )
        assert expected.abs().sum() > 0, f'{name} is zero, and proves nothing'


@pytest.mark.parametrize('tokens', [12, 17])
@pytest.mark.parametrize('num_parts', [1, 2, 3])
def test_values_and_gradients(tokens, num_parts):
    """12 tokens are divided by all three numbers of parts, 17 by 1 alone."""
    check(tokens, num_parts)


@pytest.mark.parametrize('stages', [('lfe',), ('lfe', 'gfe')], ids='+'.join)
@pytest.mark.parametrize('num_parts', [2, 3])
def test_stages(stages, num_parts):
    """Table 5's rows; of 14 tokens the second number of parts leaves a rest."""
    check(14, num_parts, stages)


@pytest.mark.parametrize('levels', [[0, 1], [1, 2], [0, 2], [1]], ids=str)
def test_levels(levels):
    """Table 6's rows, and others. Of 16, 5, 13 and 4 tokens the second and third leave a rest."""
    check(17, 2, levels=levels)


def test_more_parts_than_tokens():
    check(17, 7, levels=[1])


@pytest.mark.parametrize('num_parts', [2, 3])
def test_single_precision(num_parts):
    check(14, num_parts, dtype=torch.float32, tolerance=1e-5)

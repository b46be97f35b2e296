import math

import pytest
import torch
from mmdet.models.layers import SELayer

from mmscale.rivals import SENeck
from mmscale.rivals.se import SqueezeExcitation


def test_numbers_by_hand():
    """Means 1 and 3; W1 takes their difference with both signs to one unit each, W2 passes the units on."""
    block = SqueezeExcitation(2, reduction=1)
    w1, _, w2, _ = block.excitation
    with torch.no_grad():
        w1.weight.copy_(torch.tensor([[1.0, -1], [-1, 1]]))  # z = (1, 3): -2 and 2, after ReLU 0 and 2
        w2.weight.copy_(torch.tensor([[0.0, 1], [0, -1]]))  # 2 and -2
    x = torch.tensor([[[0.0, 2.0]], [[6.0, 0.0]]])[None]
    high, low = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))
    torch.testing.assert_close(block(x), torch.tensor([[[0, 2 * high]], [[6 * low, 0]]])[None])


def test_the_formula_in_loops():
    torch.manual_seed(0)
    block, x = SqueezeExcitation(6, reduction=2), torch.randn(2, 6, 3, 5)
    w1, w2 = block.excitation[0].weight, block.excitation[2].weight
    expected = torch.empty_like(x)
    for b in range(2):
        z = [sum(x[b, c, i, j] for i in range(3) for j in range(5)) / 15 for c in range(6)]
        hidden = [max(sum(w1[k, c] * z[c] for c in range(6)), torch.zeros(())) for k in range(3)]
        for c in range(6):
            expected[b, c] = x[b, c] / (1 + torch.exp(-sum(w2[c, k] * hidden[k] for k in range(3))))
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_it_is_mmdetections_block_without_biases():
    """MMDetection's SELayer has 1x1 convolutions and, unless told otherwise, another activation."""
    torch.manual_seed(0)
    oracle = SELayer(32, ratio=16, act_cfg=(dict(type='ReLU'), dict(type='Sigmoid')))
    block = SqueezeExcitation(32)
    with torch.no_grad():
        for conv, linear in ((oracle.conv1.conv, block.excitation[0]), (oracle.conv2.conv, block.excitation[2])):
            conv.bias.zero_()
            conv.weight.normal_()
            linear.weight.copy_(conv.weight.flatten(1))
    x, weight = torch.randn(2, 32, 5, 3), torch.randn(2, 32, 5, 3)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outs = [module(i) for module, i in zip((block, oracle), inputs, strict=True)]
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)
    for out in outs:
        (out * weight).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(block.excitation[0].weight.grad, oracle.conv1.conv.weight.grad.flatten(1))


def test_weights_of_zero_halve_the_map():
    block, x = SqueezeExcitation(4, reduction=2), torch.randn(2, 4, 3, 3)
    torch.nn.init.zeros_(block.excitation[2].weight)
    assert torch.equal(block(x), x / 2)


def test_every_level_has_its_own_block():
    neck = SENeck([16, 32], reduction=8)
    assert [tuple(p.shape) for p in neck.parameters()] == [(2, 16), (16, 2), (4, 32), (32, 4)]


@pytest.mark.parametrize('reduction', [0, 65, 2.0])
def test_bad_reduction_is_one_sentence(reduction):
    with pytest.raises(ValueError, match=f'reduction={reduction} should be a whole number from 1 to 64, the channels'):
        SENeck([64, 32], reduction=reduction)

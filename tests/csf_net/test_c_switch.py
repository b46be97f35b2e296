"""CSwitch equals one convolution for every quota; it needs no MMYOLO."""

import pytest
import torch
import torch.nn.functional as F

from mmscale.csf_net import CSwitch

CASES = [([2, 3, 4], 1), ([2, 3, 4], 3), ([5], 3), ([1, 1], 5)]


def inputs(dtype, batch=2, size=(5, 7)):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 6, *size, generator=generator, dtype=torch.double).to(dtype)


def separate(module, x, quotas, kernel):
    """A convolution for every quota, with its slice of the weights."""
    outs, start = [], 0
    for quota in quotas:
        weight, bias = (values[start : start + quota] for values in (module.conv.weight, module.conv.bias))
        assert weight.shape == (quota, 6, kernel, kernel)
        outs.append(F.conv2d(x, weight, bias, padding=(kernel - 1) // 2))
        start += quota
    return outs


@pytest.mark.parametrize('dtype, tolerance', [(torch.double, 1e-10), (torch.float, 1e-5)], ids=['double', 'single'])
@pytest.mark.parametrize('quotas, kernel', CASES, ids=str)
def test_it_equals_separate_convolutions(quotas, kernel, dtype, tolerance):
    """In values, and in gradients of the map and of every weight."""
    torch.manual_seed(0)
    module, x = CSwitch(6, quotas, kernel).to(dtype), inputs(dtype).requires_grad_()
    leaves = [x, *module.parameters()]
    results = []
    for outs in (module(x), separate(module, x, quotas, kernel)):
        total = sum((out * torch.linspace(-1, 1, out.numel()).to(out).view_as(out)).sum() for out in outs)
        results.append([*outs, *torch.autograd.grad(total, leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize('size', [(5, 7), (1, 1), (20, 12)])
@pytest.mark.parametrize('kernel', [1, 3])
def test_shapes(kernel, size):
    outs = CSwitch(6, (2, 4), kernel)(inputs(torch.float, size=size))
    assert isinstance(outs, tuple) and [tuple(out.shape) for out in outs] == [(2, 2, *size), (2, 4, *size)]


def test_the_papers_example():
    """256 channels become 64, 128 and 256; a 1x1 kernel is the default."""
    module = CSwitch(256, [64, 128, 256])
    assert module.conv.weight.shape == (448, 256, 1, 1) and module.conv.bias.shape == (448,)
    assert [out.shape[1] for out in module(torch.rand(1, 256, 2, 2))] == [64, 128, 256]


def test_branches_come_in_the_order_of_the_quotas():
    module = CSwitch(6, [2, 3])
    with torch.no_grad():
        module.conv.weight.zero_()
        module.conv.bias.copy_(torch.arange(5.0))
        first, second = module(inputs(torch.float))
    assert first[0, :, 0, 0].tolist() == [0, 1] and second[0, :, 0, 0].tolist() == [2, 3, 4]


def test_a_branch_alone_teaches_its_own_weights_only():
    module = CSwitch(6, [2, 3])
    module(inputs(torch.float))[1].sum().backward()
    assert not module.conv.weight.grad[:2].any() and (module.conv.weight.grad[2:] != 0).all()


@pytest.mark.parametrize(
    'quotas, kernel, message',
    [
        ([], 1, r'quotas=\[\] of CSwitch should be a list of positive whole numbers'),
        ([4, 0], 1, r'quotas=\[4, 0\] of CSwitch should be a list of positive whole numbers'),
        ([4, -2], 1, r'quotas=\[4, -2\] of CSwitch should'),
        (64, 1, r'quotas=64 of CSwitch should be a list of positive whole numbers'),
        ([True, 4], 1, r'quotas=\[True, 4\] of CSwitch should'),
        ([4.0, 2], 1, r'quotas=\[4.0, 2\] of CSwitch should'),
        ([4], 2, 'kernel=2 of CSwitch should be an odd number from 1'),
        ([4], 0, 'kernel=0 of CSwitch should be an odd number from 1'),
        ([4], -1, 'kernel=-1 of CSwitch should be an odd number from 1'),
    ],
)
def test_what_it_refuses_is_one_sentence(quotas, kernel, message):
    with pytest.raises(ValueError, match=message) as caught:
        CSwitch(8, quotas, kernel)
    assert '\n' not in str(caught.value)

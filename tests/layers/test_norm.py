"""The norm of a position, and single precision where it is asked for."""

import pytest
import torch

from mmscale.layers import RMSNorm2d, full_precision, init_as_torch


def test_by_hand_and_position_by_position():
    norm = RMSNorm2d(2).double()
    norm.weight.data = torch.tensor([1.0, 3.0]).double()
    x = torch.tensor([[[[3.0, 0.0]], [[4.0, -2.0]]]]).double()  # positions (3, 4) and (0, -2)
    root = 12.5**0.5
    expected = torch.tensor([[[[3 / root, 0.0]], [[12 / root, -3 * 2**0.5]]]]).double()
    torch.testing.assert_close(norm(x), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm(1e6 * x), expected, rtol=1e-7, atol=0)


def test_nothing_is_divided_by_zero():
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    out = RMSNorm2d(3)(x)
    out.sum().backward()
    assert not out.any() and x.grad.isfinite().all()


def test_starts_at_one():
    norm = RMSNorm2d(3)
    norm.weight.data.zero_()
    init_as_torch(norm)
    assert (norm.weight == 1).all()


def test_full_precision():
    x = torch.rand(3, 3)
    with torch.autocast('cpu', torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision(x):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


@pytest.mark.parametrize('device', ['meta', 'cpu'])
def test_full_precision_on_any_device(device):
    x = torch.empty(2, 2, device=device)
    with full_precision(x):
        assert (x @ x).shape == (2, 2)

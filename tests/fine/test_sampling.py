import pytest
import torch

from mmscale.fine.sampling import DOWN_OPERATORS, build_down

from .literal import average_tokens


@pytest.mark.parametrize('size', [(8, 8), (7, 9), (5, 4)])
@pytest.mark.parametrize('kernel', [1, 2, 4])
def test_average_is_over_valid_pixels_only(size, kernel):
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(build_down('avg', 3, kernel)(x), average_tokens(x, kernel))


@pytest.mark.parametrize('name', sorted(DOWN_OPERATORS))
@pytest.mark.parametrize('size', [(8, 8), (7, 9), (50, 67)])
def test_a_constant_map_stays_constant_up_to_its_edge(name, size):
    tokens = build_down(name, 4, 4)(torch.full((1, 4, *size), 3.0))
    assert tokens.shape[-2:] == (-(-size[0] // 4), -(-size[1] // 4))
    torch.testing.assert_close(tokens, torch.full_like(tokens, 3.0))


def test_max_takes_the_maximum_of_negative_values_at_the_edge():
    x = -torch.rand(1, 1, 5, 5) - 1  # a padding of zeros would win
    tokens = build_down('max', 1, 2)(x)
    assert tokens[0, 0, 2, 2] == x[0, 0, 4, 4]
    assert tokens.max() < 0


def test_depthwise_weights_are_those_of_table_6():
    modules = [build_down('dwconv', 256, k) for k in (1, 2, 2, 4)]  # high and low of k = 1, high and low of k = 2
    assert sum(p.numel() for m in modules for p in m.parameters()) == 6144


def test_depthwise_response_at_the_edge_is_scaled_by_the_valid_share():
    down = build_down('dwconv', 1, 2)
    down.conv.weight.data = torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]])
    tokens = down(torch.ones(1, 1, 3, 3))
    # right edge: only the left column of the kernel, half of it valid; corner: one of four
    torch.testing.assert_close(tokens[0, 0], torch.tensor([[1111.0, 101 * 2], [11 * 2, 1 * 4]]))


def test_unknown_operator():
    with pytest.raises(ValueError, match=r"down='median' is no sampling operator of FINE; choose one of \['avg'"):
        build_down('median', 8, 2)


@pytest.mark.parametrize('kernel', [2, 3, 4])
def test_whole_blocks_are_averaged_as_pytorchs_pooling_does(kernel):
    """On a CPU in single precision they take another way, gradients too; another memory layout takes PyTorch's."""
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        x = torch.randn(2, 5, 12, 24).to(memory_format=memory_format).requires_grad_()
        tokens = build_down('avg', 5, kernel)(x)
        (tokens * torch.linspace(-1, 1, tokens.numel()).view(tokens.shape)).sum().backward()
        results.append((tokens.contiguous(), x.grad.contiguous()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)

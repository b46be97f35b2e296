import numpy as np
import pytest
import torch

from mmscale.cfsam.partition import combine, partition, shrink, stretch

PARTS = [1, 2, 3, 4, 7]


def tokens(length, batch=2, channels=3, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(batch, length, channels, dtype=dtype)


def line(length, dtype=torch.float64):
    """Sequences that are linear along the tokens: a slope and a start for each channel and image."""
    slopes = torch.tensor([[0.0, 1.0, -2.5], [0.3, -7.0, 11.0]], dtype=dtype)
    starts = torch.tensor([[4.0, 0.0, 1.0], [-3.0, 0.5, 100.0]], dtype=dtype)
    return starts[:, None] + slopes[:, None] * torch.arange(length, dtype=dtype)[None, :, None]


@pytest.mark.parametrize('num_parts', PARTS)
@pytest.mark.parametrize('contiguous', [True, False])
def test_combine_inverts_partition_exactly(num_parts, contiguous):
    for length in (num_parts, 5 * num_parts, 84):
        x = tokens(length) if contiguous else tokens(3, channels=length).transpose(1, 2)
        parts = partition(x, num_parts)
        assert parts.shape == (2 * num_parts, length // num_parts, 3)
        assert torch.equal(combine(parts, num_parts), x)
        assert torch.equal(partition(combine(parts, num_parts), num_parts), parts)


@pytest.mark.parametrize('num_parts', PARTS)
def test_part_p_holds_every_p_th_token_from_p(num_parts):
    x = tokens(84)
    parts = partition(x, num_parts)
    for image in range(2):
        for part in range(num_parts):
            assert torch.equal(parts[image * num_parts + part], x[image, part::num_parts])


def test_six_tokens_in_two_parts():
    x = torch.tensor([[[10.0], [11], [12], [13], [14], [15]], [[20], [21], [22], [23], [24], [25]]])
    expected = [[10, 12, 14], [11, 13, 15], [20, 22, 24], [21, 23, 25]]
    assert partition(x, 2).squeeze(2).tolist() == expected
    assert combine(torch.tensor(expected)[..., None], 2).squeeze(2).tolist() == x.squeeze(2).tolist()


@pytest.mark.parametrize('num_parts', PARTS)
def test_a_length_that_the_parts_divide_is_left_alone(num_parts):
    x = tokens(84)
    assert stretch(x, num_parts) is x
    assert shrink(x, 84) is x


@pytest.mark.parametrize(
    'num_parts, length, longer', [(2, 5, 6), (3, 5, 6), (4, 5, 8), (7, 15, 21), (4, 3, 4), (7, 1, 7)]
)
def test_stretch_goes_to_the_next_multiple_and_shrink_back(num_parts, length, longer):
    stretched = stretch(tokens(length), num_parts)
    assert stretched.shape == (2, longer, 3)
    assert shrink(stretched, length).shape == (2, length, 3)
    assert partition(stretched, num_parts).shape == (2 * num_parts, longer // num_parts, 3)


@pytest.mark.parametrize('num_parts', PARTS[1:])
@pytest.mark.parametrize('length', [2, 3, 5, 13, 29, 1943])
def test_what_is_linear_along_the_tokens_comes_back(num_parts, length):
    """Fewer tokens than parts, too; the stretched sequence is the same line at other points."""
    x = line(length)
    stretched = stretch(x, num_parts)
    torch.testing.assert_close(shrink(stretched, length), x, rtol=0, atol=1e-9)
    longer = stretched.shape[1]
    assert longer % num_parts == 0 and 0 <= longer - length < num_parts
    between = x[:, :1] + (x[:, -1:] - x[:, :1]) * torch.linspace(0, 1, longer, dtype=torch.float64)[None, :, None]
    torch.testing.assert_close(stretched, between, rtol=0, atol=1e-9)
    restored = shrink(stretch(x.float(), num_parts), length)
    torch.testing.assert_close(restored, x.float(), rtol=1e-5, atol=1e-4)  # values of up to 21,500


@pytest.mark.parametrize('num_parts', PARTS[1:])
@pytest.mark.parametrize('length', [2, 5, 13, 29])
def test_first_and_last_token_stay(num_parts, length):
    x = tokens(length)
    stretched = stretch(x, num_parts)
    for y in (stretched, shrink(stretched, length)):
        assert torch.equal(y[:, [0, -1]], x[:, [0, -1]])


def test_single_precision_is_enough_for_any_length():
    """Places of 6,000 and 70,000 tokens in single precision would be 3e-4 and 4e-3 of a token off."""
    for length in (6001, 70_001):
        x = tokens(length, batch=1, channels=1)
        exact = stretch(x.double(), 2)
        torch.testing.assert_close(stretch(x, 2).double(), exact, rtol=0, atol=1e-6)
        torch.testing.assert_close(shrink(stretch(x, 2), length).double(), shrink(exact, length), rtol=0, atol=1e-6)


@pytest.mark.parametrize('num_parts', PARTS)
def test_one_token(num_parts):
    """It has no direction to be interpolated in: it is repeated, and one is kept."""
    x = tokens(1)
    stretched = stretch(x, num_parts)
    assert torch.equal(stretched, x.expand(2, num_parts, 3))
    assert torch.equal(shrink(stretched, 1), x)


@pytest.mark.parametrize('length, target', [(5, 6), (13, 16), (16, 13), (3, 7), (7, 3), (1, 4), (4, 1)])
def test_numpy_interpolates_alike(length, target):
    x = tokens(length, dtype=torch.float64)
    places = np.linspace(0, length - 1, target)  # of a single target: the first token
    expected = [[np.interp(places, np.arange(length), row) for row in image] for image in x.transpose(1, 2).numpy()]
    torch.testing.assert_close(
        shrink(x, target), torch.from_numpy(np.array(expected)).transpose(1, 2), rtol=0, atol=1e-12
    )


def test_what_is_not_linear_loses_its_finest_detail_alone():
    """Interpolating twice is no identity: of three tokens 0, 1, 0 in two parts the middle one comes back as 2 / 3."""
    x = torch.tensor([0.0, 1.0, 0.0])[None, :, None]
    torch.testing.assert_close(stretch(x, 2).flatten(), torch.tensor([0, 2 / 3, 2 / 3, 0]))
    torch.testing.assert_close(shrink(stretch(x, 2), 3).flatten(), torch.tensor([0, 2 / 3, 0]))


@pytest.mark.parametrize('num_parts', [2, 3])
def test_gradients(num_parts):
    x = tokens(5, batch=1, channels=1, dtype=torch.float64).requires_grad_()

    def there_and_back(x):
        return shrink(combine(partition(stretch(x, num_parts), num_parts) ** 2, num_parts), 5)

    assert torch.autograd.gradcheck(there_and_back, x)

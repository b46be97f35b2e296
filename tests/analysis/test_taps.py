"""Names of tensors inside a network."""

import pytest
import torch
from torch import nn

from mmscale.analysis.taps import Tap, capture, parse_taps, resolve_outputs


class Net(nn.Module):
    """Two maps out of a stem, a fusion with two inputs, a head that runs once per map, and a part that never runs."""

    def __init__(self):
        super().__init__()
        self.stem, self.head, self.fuse, self.unused = Stem(), nn.Conv2d(2, 1, 1), Fuse(), nn.ReLU()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        low, high = self.stem(x).values()
        fused = self.fuse(low, high=high)
        return [self.head(self.relu(fused)), self.head(high)]


class Stem(nn.Module):
    def forward(self, x):
        return dict(low=x - 0.5, high=x[..., ::2, ::2])


class Fuse(nn.Module):
    def forward(self, low, high):
        return low + nn.functional.interpolate(high, scale_factor=2)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def image():
    return torch.rand(1, 2, 6, 4)


def look(net, image, *names, **kwargs):
    return capture(net, parse_taps(net, names), lambda: net(image), **kwargs)


def test_inputs_outputs_calls_and_pools(net, image):
    low, high = image - 0.5, image[..., ::2, ::2]
    fused = low + high.repeat_interleave(2, 2).repeat_interleave(2, 3)
    found, _ = look(
        net, image, 'stem:out1', 'fuse:in0', 'fuse:in1', 'fuse', 'head:in@1', 'fuse:in0/2', 'fuse:in0/4', 'relu:in'
    )
    for tensor, wanted in zip(found, (high, low, high, fused, high), strict=False):
        torch.testing.assert_close(tensor, wanted)
    torch.testing.assert_close(found[5], nn.functional.avg_pool2d(low, 2))
    # a ragged edge is averaged over its valid pixels
    assert found[6].shape == (1, 2, 2, 1)
    torch.testing.assert_close(found[6][0, :, 1, 0], low[0, :, 4:].mean((1, 2)))
    # what the ReLU changes in place afterwards does not reach back
    torch.testing.assert_close(found[7], fused)
    assert (fused < 0).any()


def test_stops_early_or_runs_to_the_end(net, image):
    seen = []
    net.head.register_forward_hook(lambda *args: seen.append(1))
    assert look(net, image, 'fuse')[1] is None and not seen
    _, outputs = look(net, image, 'fuse', stop=False)
    assert len(outputs) == 2 and len(seen) == 2


def test_removes_its_hooks(net, image):
    look(net, image, 'fuse', 'fuse:in0')
    with pytest.raises(ValueError):
        look(net, image, 'unused')
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_resolve_outputs(net, image):
    assert resolve_outputs(net, 'stem', lambda: net(image)) == ['stem:out0', 'stem:out1']


@pytest.mark.parametrize(
    'name, words',
    [
        ('fuze', "the model has no module 'fuze': did you mean fuse?"),
        ('xyz', "the model has no module 'xyz': its parts are stem, head, fuse, unused, relu"),
        ('fuse:mid', 'should be a module name'),
        ('fuse/0', 'should be a module name'),
        ('stem', 'has 2 output tensors: choose stem:out0, stem:out1'),
        ('stem:out2', 'asks for output 2, but the module has 2, from 0'),
        ('unused', "calls module 'unused' 0 times"),
        ('head@2', "calls module 'head' 2 times, and @0 to @1 would be"),
        ('fuse/8', 'pools over 8x8, but its map is only 6x4'),
    ],
)
def test_mistakes(net, image, name, words):
    with pytest.raises(ValueError) as error:
        look(net, image, name)
    assert words in str(error.value)


def test_what_is_no_map(image):
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten())
    with pytest.raises(ValueError, match=r"layer '1' gives a tensor of shape \(1, 48\); a feature map"):
        look(net, image, '1')


def test_names_of_one_tap_are_its_own():
    assert str(Tap.parse('neck.fine.2:in1@3/4')) == 'neck.fine.2:in1@3/4'

import torch
from mmdet.models.necks import FPN

from mmscale.rivals import SNIFPN

from .pyramid import maps, neck


def test_numbers_by_hand():
    """One channel, convolutions that pass their input on: low + high / 4."""
    module = SNIFPN(in_channels=[1, 1], out_channels=1, num_outs=2)
    with torch.no_grad():
        for conv in module.lateral_convs:
            conv.conv.weight.fill_(1)
            conv.conv.bias.zero_()
        for conv in module.fpn_convs:
            conv.conv.weight.zero_()
            conv.conv.weight[0, 0, 1, 1] = 1
            conv.conv.bias.zero_()
    low = torch.tensor([[10.0, 20, 30, 40], [50, 60, 70, 80]])[None, None]
    high = torch.tensor([[4.0, -8]])[None, None]
    fused, top = module((low, high))
    assert fused[0, 0].tolist() == [[11, 21, 28, 38], [51, 61, 68, 78]]
    assert top[0, 0].tolist() == [[4, -8]]


def test_it_is_fpn_with_smaller_high_levels():
    """Two levels: scaling the top's lateral convolution by alpha in FPN gives the same sum."""
    sni, fpn = (neck(cls, start_level=2, num_outs=2) for cls in (SNIFPN, FPN))
    fpn.load_state_dict(sni.state_dict())
    with torch.no_grad():
        fpn.lateral_convs[1].conv.weight.mul_(0.25)
        fpn.lateral_convs[1].conv.bias.mul_(0.25)
    torch.testing.assert_close(sni(maps())[0], fpn(maps())[0])


def test_the_weights_decay_with_the_distance():
    """A constant of 1 on the top arrives four levels down as 1/4, 1/16, 1/64."""
    module = neck(SNIFPN, num_outs=4)
    seen = {}
    for level, conv in enumerate(module.fpn_convs):
        conv.register_forward_pre_hook(lambda m, args, level=level: seen.update({level: args[0]}))
    with torch.no_grad():
        for conv in module.lateral_convs:
            conv.conv.weight.zero_()
            conv.conv.bias.zero_()
        module.lateral_convs[3].conv.bias.fill_(1)
        module(maps())
    for level, value in enumerate((1 / 64, 1 / 16, 1 / 4, 1)):
        assert (seen[level] == value).all()

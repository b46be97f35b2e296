import math

import torch
from mmcv.cnn import ConvModule
from torch import nn

from mmscale.layers import init_as_torch


def test_every_layer_starts_as_torch_made_it():
    torch.manual_seed(0)
    module = nn.Sequential(ConvModule(64, 64, 3, norm_cfg=dict(type='BN')), nn.Linear(64, 64), nn.LayerNorm(64))
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7.0)
    module[0].bn.running_mean.fill_(7.0)
    init_as_torch(module)
    conv, linear = module[0].conv.weight, module[1].weight
    for weight, fan_in in ((conv, 576), (linear, 64), (module[1].bias, 64)):
        bound = 1 / math.sqrt(fan_in)  # Kaiming uniform with a = sqrt(5): sqrt(6 / (1 + 5)) / sqrt(fan in)
        assert 0.95 * bound < weight.abs().max() <= bound
    assert abs(conv.std() - 1 / math.sqrt(3 * 576)) < 0.02 / math.sqrt(3 * 576)  # MMCV's own would be sqrt(6) as wide
    assert module[0].bn.weight.eq(1).all() and module[0].bn.bias.eq(0).all() and module[0].bn.running_mean.eq(0).all()
    assert module[2].weight.eq(1).all() and module[2].bias.eq(0).all()


def test_the_rule_of_an_attention_stands_over_that_of_its_linear_layer():
    attention = nn.MultiheadAttention(32, 4)
    for parameter in attention.parameters():
        nn.init.constant_(parameter, 7.0)
    init_as_torch(attention)
    assert attention.out_proj.bias.eq(0).all() and attention.in_proj_bias.eq(0).all()  # a linear layer's is random
    bound = math.sqrt(6 / (32 + 96))
    assert 0.9 * bound < attention.in_proj_weight.abs().max() <= bound

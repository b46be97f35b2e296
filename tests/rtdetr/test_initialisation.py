"""The official start of every weight: the same value where it is constant, the same distribution where it is random.

The rules are those of the official PyTorch code: what its modules set themselves, and PyTorch's own where they do not.
"""

import math
import re

import pytest
import torch
from mmengine.model import kaiming_init
from mmengine.registry import init_default_scope

from mmscale.registry import MODELS

from . import small

RULES = [  # name, rule; every parameter must fit exactly one
    (r'backbone\..*(conv\d|downsample\.1|stem\.[036])\.weight', 'default weight'),
    (r'backbone\..*(bn\d|downsample\.2|stem\.[147])\.weight', 'one'),
    (r'backbone\..*(bn\d|downsample\.2|stem\.[147])\.bias', 'zero'),
    (r'(neck\..*|input_proj\.\d)\.conv\.weight', 'default weight'),
    (r'(neck\..*|input_proj\.\d)\.bn\.weight', 'one'),
    (r'(neck\..*|input_proj\.\d)\.bn\.bias', 'zero'),
    (r'.*layers\.\d\.norm\d\.weight|memory_proj\.1\.weight', 'one'),
    (r'.*layers\.\d\.norm\d\.bias|memory_proj\.1\.bias', 'zero'),
    (r'.*self_attn\.in_proj_weight', 'xavier uniform'),
    (r'.*self_attn\.(in_proj_bias|out_proj\.bias)', 'zero'),
    (r'.*self_attn\.out_proj\.weight', 'default weight'),
    (r'.*layers\.\d\.linear\d\.weight', 'default weight'),
    (r'.*layers\.\d\.linear\d\.bias', 'default bias'),
    (r'.*cross_attn\.(sampling_offsets|attention_weights)\.weight|.*cross_attn\.attention_weights\.bias', 'zero'),
    (r'.*cross_attn\.sampling_offsets\.bias', 'directions'),
    (r'.*cross_attn\.(value|output)_proj\.weight', 'xavier uniform'),
    (r'.*cross_attn\.(value|output)_proj\.bias', 'zero'),
    (r'decoder\.query_pos_head\.[02]\.weight|memory_proj\.0\.weight', 'xavier uniform'),
    (r'decoder\.query_pos_head\.[02]\.bias|memory_proj\.0\.bias', 'default bias'),
    (r'bbox_head\.cls_branches\.\d\.weight', 'default weight'),
    (r'bbox_head\.cls_branches\.\d\.bias', 'one per cent'),
    (r'bbox_head\.reg_branches\.\d\.[02]\.weight', 'default weight'),
    (r'bbox_head\.reg_branches\.\d\.[02]\.bias', 'default bias'),
    (r'bbox_head\.reg_branches\.\d\.4\.(weight|bias)', 'zero'),
    (r'dn_query_generator\.label_embedding\.weight', 'embedding'),
]


def rtdetr_r18():
    init_default_scope('mmscale')
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mmscale.RTDETR',
            backbone=dict(type='mmscale.ResNetVd', depth=18, out_indices=(1, 2, 3), norm_eval=False),
            neck=dict(type='mmscale.HybridEncoder', in_channels=[128, 256, 512], expansion=0.5),
            decoder=dict(num_layers=3),
            bbox_head=dict(type='mmscale.RTDETRHead', num_classes=80),
            train_cfg=dict(assigner=small.ASSIGNER),
        )
    )
    model.init_weights()
    return model


@pytest.fixture(scope='module')
def model():
    return rtdetr_r18()


def mistakes(model) -> list[str]:
    """Every parameter that does not start by the official rule."""
    parameters = dict(model.named_parameters())
    found = []
    for name, value in parameters.items():
        rules = [rule for pattern, rule in RULES if re.fullmatch(pattern, name)]
        if len(rules) != 1:
            found.append(f'{name}: rules {rules}')
            continue
        weight = parameters.get(re.sub('bias$', 'weight', name), value)
        why = wrong(rules[0], value.detach(), fan_in=weight[0].numel(), heads=8, points=4)
        if why:
            found.append(f'{name}: {rules[0]}: {why}')
    return found


def wrong(rule: str, x: torch.Tensor, fan_in: int, heads: int, points: int) -> str:
    """Why a parameter does not follow a rule, or nothing."""
    constant = {'one': 1.0, 'zero': 0.0, 'one per cent': -math.log(99)}
    if rule in constant:
        return '' if torch.allclose(x, torch.full_like(x, constant[rule]), atol=1e-6) else f'mean {x.mean()}'
    if rule == 'directions':  # head m looks along the angle 2 pi m / M, point p at the distance p
        angles = torch.arange(heads) * (2 * math.pi / heads)
        along = torch.stack((angles.cos(), angles.sin()), -1)
        along = along / along.abs().max(-1, keepdim=True).values
        levels = x.numel() // (heads * points * 2)
        literal = along[:, None, None] * torch.arange(1, points + 1)[None, None, :, None]
        literal = literal.expand(heads, levels, points, 2)
        return '' if torch.allclose(x, literal.flatten(), atol=1e-6) else 'another pattern'
    if rule == 'embedding':
        if x[-1].any():
            return 'the row of no object is not zero'
        return spread(x[:-1], deviation=1.0)
    if rule == 'xavier uniform':
        return uniform(x, math.sqrt(6 / sum(x.shape)))
    return uniform(x, 1 / math.sqrt(fan_in))  # Kaiming uniform with a = sqrt(5), and PyTorch's bias


def uniform(x, bound):
    if x.abs().max() > bound * 1.0001:
        return f'up to {x.abs().max():.4f}, not {bound:.4f}'
    return spread(x, bound / math.sqrt(3))


def spread(x, deviation):
    """Mean and standard deviation within five standard errors of a sample of this size."""
    count = x.numel()
    if abs(x.mean()) > 5 * deviation / math.sqrt(count):
        return f'mean {x.mean():.2e}'
    if abs(x.std() / deviation - 1) > 5 * math.sqrt(0.7 / count):
        return f'deviation {x.std():.4f}, not {deviation:.4f}'
    return ''


def test_every_parameter_starts_as_the_official_one(model):
    assert mistakes(model) == []


def test_statistics_of_norms_start_at_zero_and_one(model):
    for name, value in model.named_buffers():
        if name.endswith(('running_mean', 'running_var', 'num_batches_tracked')):
            assert value.eq(float(name.endswith('running_var'))).all(), name


def test_the_decoders_layers_start_alike_and_the_heads_do_not(model):
    """The official code copies one decoder layer, and draws every head on its own."""
    first, *others = model.decoder.layers
    for layer in others:
        for (name, value), other in zip(layer.named_parameters(), first.parameters(), strict=True):
            assert value.equal(other) and value is not other, name
    for branches in (model.bbox_head.cls_branches, [branch[0] for branch in model.bbox_head.reg_branches]):
        drawn = torch.stack([branch.weight.flatten()[:64] for branch in branches])
        assert len(drawn.unique(dim=0)) == len(drawn) == 4


@pytest.mark.parametrize(
    ('part', 'spoil'),
    [
        ('neck.lateral_convs.0.conv.weight', lambda x: kaiming_init_of(x)),  # MMCV's ConvModule
        ('bbox_head.cls_branches.0.bias', lambda x: torch.full_like(x, -4.0)),
        ('decoder.layers.0.linear1.weight', lambda x: torch.nn.init.xavier_uniform_(x.clone())),  # MMDetection's DETRs
        ('bbox_head.reg_branches.3.4.bias', lambda x: torch.full_like(x, -2.0)),
        ('dn_query_generator.label_embedding.weight', torch.randn_like),
        ('memory_proj.0.weight', lambda x: x / math.sqrt(3)),
        ('decoder.layers.1.cross_attn.sampling_offsets.bias', lambda x: x.flip(0)),
        ('backbone.layer2.0.bn2.weight', torch.zeros_like),
    ],
)
def test_another_start_is_found(model, part, spoil):
    parameter = model.get_parameter(part)
    kept = parameter.detach().clone()
    try:
        parameter.data.copy_(spoil(kept))
        assert [mistake.partition(':')[0] for mistake in mistakes(model)] == [part]
    finally:
        parameter.data.copy_(kept)


def kaiming_init_of(x):
    conv = torch.nn.Conv2d(x.shape[1], x.shape[0], x.shape[-1])
    kaiming_init(conv)
    return conv.weight.detach()

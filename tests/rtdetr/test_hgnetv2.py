import copy
import math
import re

import pytest
import torch
from torch import nn

from mmscale.registry import MODELS
from mmscale.rtdetr.hgnetv2 import HGNetV2

from .test_resnet_vd import assert_same_maps, pretrained, stirred

# transformers' defaults are L's numbers
B0 = dict(
    stem_channels=[3, 16, 16],
    stage_in_channels=[16, 64, 256, 512],
    stage_mid_channels=[16, 32, 64, 128],
    stage_out_channels=[64, 256, 512, 1024],
    stage_num_blocks=[1, 1, 2, 1],
    stage_numb_of_layers=[3, 3, 3, 3],
    use_learnable_affine_block=True,
)


H = dict(
    stem_channels=[3, 48, 96],
    stage_in_channels=[96, 192, 512, 1024],
    stage_mid_channels=[96, 192, 384, 768],
    stage_out_channels=[192, 512, 1024, 2048],
    stage_num_blocks=[2, 3, 6, 3],
)


def oracle(**numbers):
    from transformers import HGNetV2Backbone, HGNetV2Config

    model = HGNetV2Backbone(HGNetV2Config(out_features=[f'stage{i}' for i in (1, 2, 3, 4)], **numbers))
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if '.lab.' in name:
            parameter.data.add_(0.2 * torch.randn(1))
    return stirred(model)


def dfine_name(name):
    """D-FINE's name of a weight of transformers' model."""
    name = name.replace('embedder.', 'stem.').replace('encoder.', '')
    return name.replace('.convolution.', '.conv.').replace('.normalization.', '.bn.')


def rtdetr_name(name):
    """RT-DETR's: the padding wraps two convolutions of the stem, the aggregation's are not wrapped."""
    name = dfine_name(name)
    name = name.replace('.aggregation.0.', '.aggregation_squeeze_conv.')
    name = name.replace('.aggregation.1.', '.aggregation_excitation_conv.')
    return re.sub(r'(stem2[ab]\.conv)\.', r'\1.1.', name)


@pytest.mark.parametrize(
    ('arch', 'numbers', 'style'), [('B0', B0, dfine_name), ('B0', B0, rtdetr_name), ('L', {}, rtdetr_name)]
)
def test_equals_transformers(arch, numbers, style, tmp_path):
    other = oracle(**numbers)
    torch.save({style(name): value for name, value in other.state_dict().items()}, tmp_path / 'official.pth')
    backbone = HGNetV2(arch, out_indices=(0, 1, 2, 3), init_cfg=pretrained(tmp_path / 'official.pth'))
    backbone.init_weights()
    backbone.eval()
    for size in [(64, 64), (97, 131)]:
        image = torch.randn(2, 3, *size)
        with torch.no_grad():
            assert_same_maps(backbone(image), other(image).feature_maps)


@pytest.mark.parametrize(('arch', 'numbers'), [('B0', B0), ('H', H)])
def test_names_map_one_to_one(arch, numbers):
    with torch.device('meta'):
        ours, theirs = HGNetV2(arch).state_dict(), oracle(**numbers).state_dict()
    assert {HGNetV2.official_name(name): value.shape for name, value in ours.items()} == {
        rtdetr_name(name): value.shape for name, value in theirs.items()
    }
    assert [HGNetV2.own_name(HGNetV2.official_name(name)) for name in ours] == list(ours)
    assert [HGNetV2.own_name(name) for name in ours] == list(ours)
    assert sorted(HGNetV2.own_name(dfine_name(name)) for name in theirs) == sorted(ours)
    assert HGNetV2.official_name('stem.stem2a.conv.weight') == 'stem.stem2a.conv.1.weight'


@pytest.mark.parametrize(
    ('arch', 'millions', 'width'),
    [
        ('B0', 6.0, 1024),
        ('B1', 6.3, 1024),
        ('B2', 11.2, 1536),
        ('B3', 16.3, 2048),
        ('X', 39.6, 2048),
    ],
)
def test_parameters_are_timms(arch, millions, width):
    """The model cards of timm's ``hgnetv2_b0`` to ``b3`` and ``b5``.

    Their classifier is a 1x1 convolution to 2048 channels and a layer of 1000.
    """
    with torch.device('meta'):
        backbone = HGNetV2(arch)
    classifier = width * 2048 + 1000 * (2048 + 1)
    assert round((sum(p.numel() for p in backbone.parameters()) + classifier) / 1e6, 1) == millions
    assert backbone.out_channels[-1] == width


def test_affine_blocks_are_the_architectures_or_the_users_choice():
    with torch.device('meta'):
        has_lab = {arch: any('.lab.' in n for n in HGNetV2(arch).state_dict()) for arch in ('B0', 'B3', 'B4', 'L')}
        assert has_lab == {'B0': True, 'B3': True, 'B4': False, 'L': False}
        assert any('.lab.' in name for name in HGNetV2('L', use_lab=True).state_dict())
        assert not any('.lab.' in name for name in HGNetV2('B0', use_lab=False).state_dict())


def test_official_weights_fill_the_network(tmp_path):
    backbone = MODELS.build(dict(type='HGNetV2', arch='B0', init_cfg=pretrained(tmp_path / 'official.pth')))
    before = copy.deepcopy(backbone.state_dict())
    state = {
        backbone.official_name(name): torch.rand_like(value) + 2 if value.is_floating_point() else value + 7
        for name, value in before.items()
    }
    torch.save(state, tmp_path / 'official.pth')
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[backbone.official_name(name)]), name
        assert not torch.equal(value, before[name]), name
    shorter = HGNetV2('B0', out_indices=(0, 1), init_cfg=pretrained(tmp_path / 'official.pth'))
    shorter.init_weights()  # weights of the stages that are not built are passed over
    assert torch.equal(shorter.stages[1].downsample.conv.weight, state['stages.1.downsample.conv.weight'])


def test_another_architectures_weights_are_refused(tmp_path):
    torch.save(HGNetV2('B1').state_dict(), tmp_path / 'b1.pth')
    with pytest.raises(
        ValueError, match=r"b1\.pth' .* this HGNetV2: \d+ of another shape \(stem\.stem1\.conv\.weight: "
    ):
        HGNetV2('B0', init_cfg=pretrained(tmp_path / 'b1.pth')).init_weights()
    with pytest.raises(ValueError, match=r'\d+ unknown \(stem\.stem1\.lab\.scale, '):
        HGNetV2('B1', use_lab=False, init_cfg=pretrained(tmp_path / 'b1.pth')).init_weights()


def test_initialisation_is_the_official_one():
    """kaiming_normal_ of torch: zero mean, variance 2 / fan in, no bound."""
    torch.manual_seed(0)
    backbone = HGNetV2('B0')
    before = copy.deepcopy(backbone.state_dict())
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), f'init_weights draws {name} anew'
    for name, value in backbone.state_dict().items():
        if value.ndim == 4:
            std, count = math.sqrt(2 / value[0].numel()), value.numel()
            assert value.mean().abs() < 5 * std / math.sqrt(count), name
            assert abs(value.std() / std - 1) < 5 / math.sqrt(2 * count), name
            if count > 5000:  # a normal distribution has 4.6 % beyond two standard deviations, a uniform one none
                assert 0.03 < (value.abs() > 2 * std).float().mean() < 0.06, name
        else:
            assert (value == (1 if re.search(r'(bn\.weight|running_var|lab\.scale)$', name) else 0)).all(), name


def test_frozen_stages_and_norms():
    backbone = HGNetV2('B0', frozen_stages=1)
    assert backbone.train() is backbone and backbone.stages[1].training
    before = copy.deepcopy(backbone.state_dict())
    sum(out.mean() for out in backbone(torch.randn(2, 3, 64, 64))).backward()
    after = backbone.state_dict()
    frozen = ('stem.', 'stages.0.')
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    for name in after:
        if name.endswith('running_mean'):
            assert torch.equal(after[name], before[name]) == name.startswith(frozen), name


def test_frozen_stages_count_from_the_stem():
    def frozen(count):
        backbone = HGNetV2('B0', frozen_stages=count)
        return {name.split('.blocks')[0][:8] for name, p in backbone.named_parameters() if not p.requires_grad}

    assert [frozen(-1), {n[:5] for n in frozen(0)}] == [set(), {'stem.'}]
    assert {'stages.0', 'stages.1'} == {n for n in frozen(2) if n.startswith('stages')}


def test_norms_as_configured():
    backbone = HGNetV2('B0', norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert backbone.training and not any(norm.training or norm.weight.requires_grad for norm in norms)
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize('out_indices', [(1, 2, 3), (0, 1)])
def test_every_parameter_learns_in_half_precision(out_indices):
    backbone = HGNetV2('B0', in_channels=1, out_indices=out_indices).train()
    with torch.autocast('cpu', torch.bfloat16):
        outs = backbone(torch.randn(2, 1, 64, 64))
    assert [out.shape[1] for out in outs] == backbone.out_channels
    assert all(out.isfinite().all() for out in outs)
    sum((out.float() * torch.randn(out.shape)).sum() for out in outs).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='B7'), "arch='B7' is none of B0, B1, B2, B3, B4, B5, B6, L, X, H"),
        (dict(arch='B0', out_indices=(1, 4)), r'out_indices=\(1, 4\) must list stages from 0 to 3 in ascending order'),
        (dict(arch='B0', out_indices=(1, 1)), r'out_indices=\(1, 1\) must'),
        (dict(arch='B0', out_indices=3), 'out_indices=3 must list'),
        (dict(arch='B0', frozen_stages=-2), 'frozen_stages=-2 must be -1'),
    ],
)
def test_wrong_arguments_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        HGNetV2(**options)

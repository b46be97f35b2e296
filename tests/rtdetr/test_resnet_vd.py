import copy
import math
import re

import pytest
import torch
from mmdet.models.backbones import ResNetV1d
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint
from torch import nn

from mmscale.rtdetr.resnet_vd import ResNetVd

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
NORM = ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']


def official_names(depth):
    """Parameters and buffers of the official PResNet of variant d, as its code nests its modules."""
    layers = [f'conv1.conv1_{i}' for i in (1, 2, 3)]
    for stage, count in enumerate(BLOCKS[depth]):
        for block in range(count):
            name = f'res_layers.{stage}.blocks.{block}'
            layers += [f'{name}.branch2{branch}' for branch in ('ab' if depth < 50 else 'abc')]
            if block == 0:
                layers.append(f'{name}.short' if stage == 0 else f'{name}.short.conv')
    return [f'{layer}.{leaf}' for layer in layers for leaf in ('conv.weight', *(f'norm.{leaf}' for leaf in NORM))]


def tiny(depth=18, **options):
    return ResNetVd(depth=depth, base_channels=4, **options)


def official_state(backbone, seed=3):
    """Random weights under the official names."""
    torch.manual_seed(seed)
    return {
        backbone.official_name(name): torch.rand_like(value) + 0.5 if value.is_floating_point() else value + 7
        for name, value in backbone.state_dict().items()
    }


def pretrained(path, **options):
    return dict(type='Pretrained', checkpoint=str(path), **options)


def stirred(model, seed=5):
    """Random norms, statistics included, so that no two layers can be mistaken for each other."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.1)
    model.eval()  # which returns nothing from MMDetection's ResNet
    return model


def assert_same_maps(outs, expected):
    assert [out.shape for out in outs] == [out.shape for out in expected]
    for out, other in zip(outs, expected, strict=True):
        assert (out - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize('depth', [18, 50])
def test_equals_transformers(depth, tmp_path):
    from transformers import RTDetrResNetBackbone, RTDetrResNetConfig

    kind = dict(layer_type='basic', hidden_sizes=[64, 128, 256, 512]) if depth == 18 else {}
    stages = [f'stage{i}' for i in (1, 2, 3, 4)]
    oracle = stirred(RTDetrResNetBackbone(RTDetrResNetConfig(depths=BLOCKS[depth], out_features=stages, **kind)))
    state = {official_of_transformers(name): value for name, value in oracle.state_dict().items()}
    assert sorted(state) == sorted(official_names(depth))
    torch.save(state, tmp_path / 'official.pth')
    backbone = ResNetVd(depth=depth, init_cfg=pretrained(tmp_path / 'official.pth'))
    backbone.init_weights()
    backbone.eval()
    for size in [(64, 64), (97, 131)]:
        image = torch.randn(2, 3, *size)
        with torch.no_grad():
            assert_same_maps(backbone(image), oracle(image).feature_maps)


def official_of_transformers(name):
    name = re.sub(r'^embedder\.embedder\.(\d)', lambda m: f'conv1.conv1_{int(m[1]) + 1}', name)
    name = re.sub(r'^encoder\.stages\.(\d)\.layers\.(\d+)', r'res_layers.\1.blocks.\2', name)
    name = re.sub(r'\.layer\.(\d)', lambda m: f'.branch2{"abc"[int(m[1])]}', name)
    name = re.sub(r'\.shortcut\.1', '.short.conv', name).replace('.shortcut', '.short')
    return name.replace('.convolution', '.conv').replace('.normalization', '.norm')


def test_deep_ones_are_mmdetections():
    ours, theirs = tiny(50), stirred(ResNetV1d(depth=50, base_channels=4))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 67, 96)
    with torch.no_grad():
        assert_same_maps(ours.eval()(image), theirs(image))


@pytest.mark.parametrize('depth', [18, 34])
def test_shallow_ones_have_one_short_cut_more(depth):
    more = set(tiny(depth).state_dict()) - set(ResNetV1d(depth=depth, base_channels=4).state_dict())
    assert more == {f'layer1.0.downsample.{leaf}' for leaf in ('1.weight', *(f'2.{leaf}' for leaf in NORM))}


@pytest.mark.parametrize(('depth', 'millions'), [(18, 11.71), (34, 21.82), (50, 25.58), (101, 44.57)])
def test_parameters_are_paddles(depth, millions):
    """docs/zh_CN/models/ImageNet1k/ResNet.md of PaddleClas, whose networks end in a classifier of 1000."""
    with torch.device('meta'):
        backbone = ResNetVd(depth=depth)
    count = sum(p.numel() for p in backbone.parameters()) + 1000 * (backbone.feat_dim + 1)
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize('depth', BLOCKS)
def test_names_map_one_to_one(depth):
    with torch.device('meta'):
        names = list(ResNetVd(depth=depth).state_dict())
    official = [ResNetVd.official_name(name) for name in names]
    assert sorted(official) == sorted(official_names(depth))
    assert [ResNetVd.own_name(name) for name in official] == names
    assert [ResNetVd.own_name(name) for name in names] == names
    assert ResNetVd.official_name('fc.weight') == ResNetVd.own_name('fc.weight') == 'fc.weight'


@pytest.mark.parametrize('depth', [18, 50])
def test_official_weights_fill_the_network(depth, tmp_path):
    state = official_state(tiny(depth))
    torch.save(state, tmp_path / 'official.pth')
    backbone = tiny(depth, init_cfg=pretrained(tmp_path / 'official.pth'))
    before = copy.deepcopy(backbone.state_dict())
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[backbone.official_name(name)]), name
        assert not torch.equal(value, before[name]), name


class Detector(BaseModule):
    def __init__(self, **options):
        super().__init__()
        self.backbone = tiny(**options)
        self.head = nn.Linear(2, 2)


def test_official_names_within_a_detector(tmp_path):
    """By torch's loader, by MMEngine's, and as one part of a file."""
    state = {f'backbone.{name}': value for name, value in official_state(tiny()).items()}
    detectors = [
        copy.deepcopy(Detector()),
        Detector(),
        Detector(init_cfg=pretrained(tmp_path / 'a.pth', prefix='backbone.')),
    ]
    torch.save(state | {'head.weight': torch.ones(2, 2), 'head.bias': torch.ones(2)}, tmp_path / 'a.pth')
    detectors[0].load_state_dict(torch.load(tmp_path / 'a.pth'))
    load_checkpoint(detectors[1], str(tmp_path / 'a.pth'), strict=True)
    detectors[2].init_weights()
    for detector in detectors:
        for name, value in detector.backbone.state_dict().items():
            assert torch.equal(value, state[f'backbone.{ResNetVd.official_name(name)}']), name


STEM = 'conv1.conv1_1.conv.weight'
MISFITS = {
    'missing': (lambda state: {k: v for k, v in state.items() if k != STEM}, r'1 missing \(stem\.0\.weight\)$'),
    'a block too many': (
        lambda state: state | {'res_layers.0.blocks.2.branch2a.conv.weight': state[STEM]},
        r'1 unknown \(layer1\.2\.conv1\.weight\)$',
    ),
    'shape': (
        lambda state: state | {STEM: torch.ones(2, 1, 3, 3)},
        r'1 of another shape \(stem\.0\.weight: \(2, 1, 3, 3\), not \(2, 3, 3, 3\)\)$',
    ),
    'a training checkpoint': (
        lambda state: {'ema': {'module': state}, 'last_epoch': 3},
        r'115 missing .*; 2 unknown \(ema, last_epoch\)$',
    ),
    'other names': (
        lambda state: {f'net.{k}': v for k, v in state.items()},
        # 20 convolutions of the body, 3 of the stem, each with a norm's four: its counter does not count
        r'115 missing \(stem\.0\.weight, .*\.\.\.\); 138 unknown \(net\.conv1\.conv1_1\.conv\.weight, ',
    ),
}


@pytest.mark.parametrize('misfit', MISFITS)
def test_half_fitting_weights_are_refused(misfit, tmp_path):
    change, message = MISFITS[misfit]
    torch.save(change(official_state(tiny())), tmp_path / 'a.pth')
    backbone = tiny(init_cfg=pretrained(tmp_path / 'a.pth'))
    with pytest.raises(ValueError, match=r"^the weights '.*a\.pth' of init_cfg do not fit this ResNetVd: " + message):
        backbone.init_weights()


def test_what_a_checkpoint_may_lack_and_have(tmp_path):
    """Counters of norms may be absent, a classifier and stages that are not built may be there."""
    state = {name: value for name, value in official_state(tiny()).items() if 'num_batches' not in name}
    torch.save(state | {'fc.weight': torch.ones(2, 2)}, tmp_path / 'a.pth')
    backbone = tiny(
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        init_cfg=pretrained(tmp_path / 'a.pth'),
    )
    backbone.init_weights()
    assert torch.equal(backbone.layer3[0].conv1.weight, state['res_layers.2.blocks.0.branch2a.conv.weight'])


def test_names_are_only_checked_while_initialising():
    backbone = tiny()
    backbone.init_weights()
    assert backbone.load_state_dict({}, strict=False).missing_keys


@pytest.mark.parametrize('depth', [18, 50])
def test_initialisation_is_torchs(depth):
    torch.manual_seed(0)
    backbone = ResNetVd(depth=depth, base_channels=16)
    before = copy.deepcopy(backbone.state_dict())
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), f'init_weights draws {name} anew'
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            bound, count = 1 / math.sqrt(weight[0].numel()), weight.numel()
            std = bound / math.sqrt(3)
            assert module.bias is None
            assert (1 - 20 / count) * bound < weight.abs().max() <= bound, name
            assert weight.mean().abs() < 5 * std / math.sqrt(count), name
            assert abs(weight.std() / std - 1) < 3 / math.sqrt(count), name  # the std's own is 0.45 / sqrt(count)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.running_var == 1).all(), name
            assert not module.bias.any() and not module.running_mean.any(), name


def test_frozen_stages_and_norms():
    backbone = tiny(frozen_stages=1, norm_eval=False)
    assert backbone.train() is backbone
    before = copy.deepcopy(backbone.state_dict())
    sum(out.mean() for out in backbone(torch.randn(2, 3, 64, 64))).backward()
    after = backbone.state_dict()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == name.startswith(('stem.', 'layer1.')), name
    for name in after:
        if name.endswith('running_mean'):
            assert torch.equal(after[name], before[name]) == name.startswith(('stem.', 'layer1.')), name


def test_norm_eval_keeps_the_statistics():
    backbone = tiny(norm_eval=True).train()
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert backbone.training and backbone.eval() is backbone


def test_every_parameter_learns_in_half_precision():
    backbone = tiny(out_indices=(1, 2, 3), norm_eval=False).train()
    with torch.autocast('cpu', torch.bfloat16):
        outs = backbone(torch.randn(2, 3, 64, 64))
    assert [out.shape[1] for out in outs] == backbone.out_channels == [8, 16, 32]
    assert all(out.dtype == torch.bfloat16 and out.isfinite().all() for out in outs)
    sum((out.float() * torch.randn(out.shape)).sum() for out in outs).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(depth=20), 'depth=20 is none of 18, 34, 50, 101, 152'),
        (dict(depth=18, out_indices=(2, 4)), r'out_indices=\(2, 4\) must list stages from 0 to 3 in ascending order'),
        (dict(depth=18, out_indices=()), r'out_indices=\(\) must'),
        (dict(depth=18, out_indices=(3, 2)), r'out_indices=\(3, 2\) must'),
        (dict(depth=18, frozen_stages=5), r'frozen_stages=5 must be -1 \(none\), 0 \(the stem\), .* up to 4'),
        (dict(depth=18, num_stages=5), 'num_stages=5 must be 1 to 4'),
        (dict(depth=18, num_stages=3), r'strides=\(1, 2, 2, 2\) must have one entry for each of num_stages=3'),
        (dict(depth=18, avg_down=False), 'avg_down=False cannot be set'),
        (dict(depth=18, freeze_at=0), 'ResNetVd has no option freeze_at=0: its options are depth, '),
    ],
)
def test_wrong_arguments_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        ResNetVd(**options)

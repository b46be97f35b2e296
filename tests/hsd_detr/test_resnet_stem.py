import copy

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import nn

from mmscale.hsd_detr import SPDMixer, SPDMixerResNet, SPDMixerResNetVd
from mmscale.layers import reparameterize
from mmscale.rtdetr import ResNetVd

from ..layers.test_reparam import stirred
from ..test_contract import fcos, neck, rtdetr, rtdetr_parts, sample

PAIRS = {SPDMixerResNet: ResNet, SPDMixerResNetVd: ResNetVd}
KINDS = pytest.mark.parametrize('kind', PAIRS, ids=lambda kind: kind.__name__)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def tiny(kind, depth=18, **options):
    return kind(depth=depth, base_channels=8, **options)


def pretrained(path):
    return dict(type='Pretrained', checkpoint=str(path))


def random_state(backbone):
    return {
        name: torch.rand_like(value) + 0.5 if value.is_floating_point() else value + 7
        for name, value in backbone.state_dict().items()
    }


def of_stages(backbone):
    return {name: value for name, value in backbone.state_dict().items() if name.startswith('layer')}


def of_stem(backbone):
    return {name: value for name, value in backbone.state_dict().items() if name.startswith('stem.')}


def assert_same(state, expected):
    assert state.keys() == expected.keys() and state
    for name, value in state.items():
        assert value.equal(expected[name]), name


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize(
    'kind, stem',
    [
        (SPDMixerResNet, 7 * 7 * 3 * 64 + 128),
        (SPDMixerResNetVd, (9 * 3 * 32 + 64) + (9 * 32 * 32 + 64) + (9 * 32 * 64 + 128)),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_parameters(kind, stem, depth):
    """13,184 in the new stem (test_spd_mixer.py) in the place of the old one."""
    with torch.device('meta'):
        ours, theirs = kind(depth=depth), PAIRS[kind](depth=depth)
    counts = [sum(p.numel() for p in backbone.parameters()) for backbone in (ours, theirs)]
    assert counts[0] - counts[1] == 13184 - stem
    assert sum(p.numel() for p in ours.stem.parameters()) == 13184


@KINDS
@pytest.mark.parametrize('depth', [18, 50])
def test_the_stages_are_the_ordinary_ones(kind, depth):
    ours, theirs = tiny(kind, depth), tiny(PAIRS[kind], depth)
    stirred_twins(ours, theirs)
    image = torch.randn(2, 3, 67, 98)
    with torch.no_grad():
        x, expected = ours.stem(image), []
        for name in theirs.res_layers:
            x = getattr(theirs, name)(x)
            expected.append(x)
        outs = ours(image)
    assert len(outs) == len(expected) == 4
    assert all(out.equal(other) and out.any() for out, other in zip(outs, expected, strict=True))


def stirred_twins(ours, theirs):
    """Both in evaluation mode (which returns nothing from MMDetection's), with the same stages."""
    theirs.load_state_dict(random_norms(theirs))
    theirs.eval()
    stirred(ours.stem)
    ours.eval()
    assert not ours.load_state_dict(of_stages(theirs), strict=False).unexpected_keys


def random_norms(backbone):
    """Its weights, with statistics and weights of norms that no two layers share."""
    state = backbone.state_dict()
    for name, module in backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            for leaf in ('weight', 'running_var', 'bias', 'running_mean'):
                state[f'{name}.{leaf}'] = torch.rand_like(state[f'{name}.{leaf}']) + 0.5
    return state


@KINDS
@pytest.mark.parametrize('size', [(64, 96), (33, 65), (31, 98)], ids=str)
def test_maps_have_the_ordinary_sizes(kind, size):
    image = torch.rand(1, 3, *size)
    shapes = [[out.shape for out in tiny(k)(image)] for k in (kind, PAIRS[kind])]
    assert shapes[0] == shapes[1]


@KINDS
def test_folds_within_a_backbone(kind):
    backbone = tiny(kind, stem=dict(num_branches=2)).double().eval()
    stirred(backbone.stem)
    folded = reparameterize(backbone)
    kinds = [type(m) for m in folded.stem.modules() if not list(m.children())]
    assert kinds == [nn.Conv2d, nn.ReLU] * 3
    image = torch.rand(1, 3, 33, 64).double()
    with torch.no_grad():
        for out, expected in zip(folded(image), backbone(image), strict=True):
            torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-10)


@pytest.fixture
def log(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def save_ordinary(kind, path, official=False):
    ordinary = tiny(PAIRS[kind])
    state = random_state(ordinary)
    named = {ordinary.official_name(name): value for name, value in state.items()} if official else state
    torch.save(named | {'fc.weight': torch.ones(2, 2)}, path)
    return {name: value for name, value in state.items() if name.startswith('layer')}


@pytest.mark.parametrize(
    'kind, official', [(SPDMixerResNet, False), (SPDMixerResNetVd, False), (SPDMixerResNetVd, True)]
)
def test_ordinary_weights_fill_all_but_the_stem(kind, official, tmp_path, log):
    state = save_ordinary(kind, tmp_path / 'a.pth', official)
    backbone = tiny(kind, init_cfg=pretrained(tmp_path / 'a.pth'))
    before = copy.deepcopy(of_stem(backbone))
    backbone.init_weights()
    assert_same(of_stages(backbone), state)
    assert_same(of_stem(backbone), before)
    said = [line for line in log.messages if 'SPDMixer' in line and 'starts anew' in line]
    assert said == [f"The weights '{tmp_path}/a.pth' fill the backbone but for its SPDMixer, which starts anew"]


@KINDS
def test_ordinary_weights_within_a_detector(kind, tmp_path):
    state = {f'backbone.{name}': value for name, value in random_state(tiny(PAIRS[kind])).items()}
    torch.save(state | {'neck.weight': torch.ones(2)}, tmp_path / 'a.pth')
    backbone = tiny(kind, init_cfg=dict(**pretrained(tmp_path / 'a.pth'), prefix='backbone.'))
    backbone.init_weights()
    assert_same(
        {f'backbone.{name}': value for name, value in of_stages(backbone).items()},
        {name: value for name, value in state.items() if name.startswith('backbone.layer')},
    )


@KINDS
@pytest.mark.parametrize('frozen_stages', [-1, 2])
def test_weights_of_its_own_fill_the_stem_too(kind, frozen_stages, tmp_path, log):
    state = random_state(tiny(kind))
    torch.save(state, tmp_path / 'a.pth')
    backbone = tiny(kind, init_cfg=pretrained(tmp_path / 'a.pth'), frozen_stages=frozen_stages)
    backbone.init_weights()
    assert_same(backbone.state_dict(), state)
    assert not [line for line in log.messages if 'starts anew' in line]


def without(state, *starts):
    return {name: value for name, value in state.items() if not name.startswith(starts)}


MISFITS = {
    # two convolutions, and two norms of four
    'a block': (lambda own, ordinary: without(ordinary, 'layer2.1.'), r'10 missing \(layer2\.1\.conv1\.weight, '),
    'other names': (lambda own, ordinary: {f'net.{k}': v for k, v in ordinary.items()}, r'\d+ missing \(layer1\.0\.'),
    'a part of the stem': (
        lambda own, ordinary: without(own, 'stem.downsample.pointwise.'),
        r'9 missing \(stem\.downsample\.pointwise\.convs\.0\.conv\.weight, ',
    ),
    'a stem with more branches': (
        lambda own, ordinary: own | {'stem.embed.convs.1.conv.weight': own['stem.embed.convs.0.conv.weight']},
        r'1 unknown \(stem\.embed\.convs\.1\.conv\.weight\)$',
    ),
    'shape': (
        lambda own, ordinary: ordinary | {'layer1.0.conv1.weight': torch.ones(1)},
        r'1 of another shape \(layer1\.0\.conv1\.weight: \(1,\), not \(8, 8, 3, 3\)\)$',
    ),
}


@KINDS
@pytest.mark.parametrize('misfit', MISFITS)
def test_half_fitting_weights_are_refused(kind, misfit, tmp_path):
    change, message = MISFITS[misfit]
    torch.save(change(random_state(tiny(kind)), random_state(tiny(PAIRS[kind]))), tmp_path / 'a.pth')
    backbone = tiny(kind, init_cfg=pretrained(tmp_path / 'a.pth'))
    begin = rf"^the weights '.*a\.pth' of init_cfg do not fit this {kind.__name__}: "
    with pytest.raises(ValueError, match=begin + message):
        backbone.init_weights()


@KINDS
def test_a_stem_without_weights_is_not_frozen(kind, tmp_path):
    save_ordinary(kind, tmp_path / 'a.pth')
    backbone = tiny(kind, init_cfg=pretrained(tmp_path / 'a.pth'), frozen_stages=1)
    with pytest.raises(ValueError, match=r"^frozen_stages=1 would freeze an SPDMixer that the weights '.*a\.pth' of"):
        backbone.init_weights()


@KINDS
def test_a_stem_with_weights_of_its_own(kind, tmp_path, log):
    save_ordinary(kind, tmp_path / 'a.pth')
    stem = random_state(SPDMixer(out_channels=8))
    torch.save(stem, tmp_path / 'stem.pth')
    options = dict(init_cfg=pretrained(tmp_path / 'a.pth'), stem=dict(init_cfg=pretrained(tmp_path / 'stem.pth')))
    backbone = tiny(kind, **options, frozen_stages=0)
    backbone.init_weights()
    assert_same(of_stem(backbone), {f'stem.{name}': value for name, value in stem.items()})
    assert not [line for line in log.messages if 'starts anew' in line]


@KINDS
@pytest.mark.parametrize('norm_eval', [True, False])
@pytest.mark.parametrize('frozen_stages', [-1, 0, 1])
def test_what_is_frozen(kind, frozen_stages, norm_eval):
    """By frozen_stages weights and statistics; by norm_eval the statistics of the stages alone."""
    backbone = tiny(kind, frozen_stages=frozen_stages, norm_eval=norm_eval)
    assert backbone.train() is backbone
    before = copy.deepcopy(backbone.state_dict())
    frozen = ('stem.', 'layer1.')[: frozen_stages + 1] or ('nothing',)
    sum(out.mean() for out in backbone(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    for name, value in backbone.state_dict().items():
        if name.endswith('running_mean'):
            held = name.startswith(frozen) or (norm_eval and name.startswith('layer'))
            assert value.equal(before[name]) == held, name
    backbone.eval()
    assert not any(module.training for module in backbone.modules())


@KINDS
def test_the_stem_s_norms_learn_where_the_stages_do_not(kind):
    backbone = tiny(kind, norm_cfg=dict(type='SyncBN', requires_grad=False))
    norms = {name: m for name, m in backbone.named_modules() if isinstance(m, nn.SyncBatchNorm)}
    assert len([name for name in norms if name.startswith('stem.')]) == 6
    for name, norm in norms.items():
        assert norm.weight.requires_grad == name.startswith('stem.'), name
    backbone = tiny(kind, stem=dict(norm_cfg=dict(type='GN', num_groups=2)))
    assert {type(m) for m in backbone.stem.modules() if 'Norm' in type(m).__name__} == {nn.GroupNorm}
    assert not any(isinstance(m, nn.GroupNorm) for m in backbone.layer1.modules())


@KINDS
def test_images_of_other_channels_and_a_stem_of_another_width(kind):
    backbone = tiny(kind, in_channels=4, stem_channels=12)
    assert backbone.stem.embed.convs[0].conv.weight.shape == (12, 16, 3, 3)
    assert [out.shape[1] for out in backbone(torch.rand(1, 4, 64, 64))] == [8, 16, 32, 64]


@KINDS
@pytest.mark.parametrize(
    'options, message',
    [
        (dict(stem=dict(width=3)), r'^stem has no option width=3: its options are num_branches, norm_cfg, '),
        (dict(stem=dict(in_channels=3)), r'^stem\.in_channels=3 cannot be set: the backbone says it'),
        (dict(stem=dict(out_channels=3)), r'^stem\.out_channels=3 cannot be set'),
        (dict(stem=dict(num_branches=0)), r'^num_branches=0 must be at least 1'),
        (dict(deep_stem=True), r'^deep_stem=True cannot be set'),
        (dict(depth=20), r'^depth=20 is none of 18, 34, 50, 101, 152'),
        (dict(out_indices=(2, 4)), r'^out_indices=\(2, 4\) must list stages from 0 to 3 in ascending order'),
        (dict(frozen_stages=5), r'^frozen_stages=5 must be -1 \(none\), 0 \(the stem\)'),
        (dict(freeze_at=0), r'has no option freeze_at=0: its options are depth, '),
    ],
)
def test_wrong_arguments_are_one_sentence(kind, options, message):
    with pytest.raises(ValueError, match=message):
        tiny(kind, **options)


def test_mmdetection_s_initialisation_is_as_of_its_resnet():
    backbone = tiny(SPDMixerResNet)
    assert backbone.init_cfg == tiny(ResNet).init_cfg
    backbone.init_weights()
    assert not backbone.layer1[0].bn2.weight.any(), 'zero_init_residual'


def build_fcos():
    plain = {**neck('FPN'), 'type': 'FPN'}
    return fcos(plain, backbone=dict(type='mmscale.SPDMixerResNet', stem=dict(num_branches=2)))


def build_rtdetr():
    return rtdetr(dict(backbone={**rtdetr_parts()['backbone'], 'type': 'mmscale.SPDMixerResNetVd'}))


@pytest.mark.parametrize('build', [build_fcos, build_rtdetr])
def test_a_detector_steps(build):
    """Four steps on one batch: every weight of the stem moves, and the loss falls."""
    init_default_scope('mmdet')
    model = build()
    model.init_weights()
    model.train()
    assert isinstance(model.backbone.stem, SPDMixer) and isinstance(model.backbone, MODELS.get('mmdet.ResNet'))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = {name: p.detach().clone() for name, p in model.backbone.stem.named_parameters()}
    image, totals = torch.randn(2, 3, 96, 128), []
    for _ in range(4):
        losses = model.loss(image, [sample(2), sample(1)])
        total = sum(value for loss in losses.values() for value in (loss if isinstance(loss, list) else [loss]))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    for name, parameter in model.backbone.stem.named_parameters():
        assert not parameter.equal(before[name]), name
    model.eval()
    with torch.no_grad():
        assert len(reparameterize(model).predict(image, [sample(0), sample(0)])) == 2

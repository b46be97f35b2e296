"""FINE in the YOLOs' necks: without its maps they are MMYOLO's; what it sees and where; starts, options, families."""

import logging
import re

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch import nn

from mmscale.fine import FINE
from mmscale.registry import HAS_MMYOLO

from ..yolo.small import ABSENT, SCALE, build, count, maps, stirred, weigh, without_gradient

if not HAS_MMYOLO:
    pytest.skip(ABSENT, allow_module_level=True)

V5 = dict(in_channels=[256, 512, 1024], out_channels=[256, 512, 1024])
V6 = dict(in_channels=[256, 512, 1024], out_channels=[128, 256, 512])
# name: FINE's neck, the plain one, widths, and where the high map is projected
FAMILIES = {
    'v5': ('FINEYOLOv5PAFPN', 'mmyolo.YOLOv5PAFPN', V5, ''),
    'v6': ('FINEYOLOv6RepPAFPN', 'mmyolo.YOLOv6RepPAFPN', V6, '01'),
    'v6 3.0': (
        'FINEYOLOv6RepBiPAFPN',
        'mmyolo.YOLOv6RepBiPAFPN',
        {**V6, 'in_channels': [128, 256, 512, 1024]},
        '01',
    ),
    'v8': ('FINEYOLOv8PAFPN', 'mmyolo.YOLOv8PAFPN', V5, '01'),
    'v10': ('FINEYOLOv10PAFPN', 'YOLOv10PAFPN', V5, '01'),
    'v12': ('FINEYOLOv12PAFPN', 'YOLOv12PAFPN', {**V5, 'in_channels': [512, 512, 1024]}, '1'),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def ours(family='v8', seed=0, **options):
    cls, _, widths, _ = FAMILIES[family]
    torch.manual_seed(seed)
    return build(cls, **{**SCALE, **widths, **options})


def plain(family, seed=0):
    _, cls, widths, _ = FAMILIES[family]
    torch.manual_seed(seed)
    return build(cls, **SCALE, **widths)


def inputs(family, **options):
    widths = [width // 8 for width in FAMILIES[family][2]['in_channels']]
    strides = [32 >> place for place in reversed(range(len(widths)))]
    return maps(widths, strides=strides, **options)


def silenced(module):
    """With FINE's maps at zero."""
    for fine in module.fine.values():
        for linear in fine.attention.out:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
    return module


# The neck that it stands in -------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('training', [True, False])
def test_without_modulation_it_is_the_plain_neck(family, training):
    """Its weights load, FINE's alone being missing; with FINE's maps at zero the outputs are equal."""
    theirs, mine = stirred(plain(family)), silenced(stirred(ours(family), seed=1))
    missing, unexpected = mine.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected and missing
    assert all(key.startswith(('fine.', 'fine_project.')) for key in missing)
    for module in (theirs, mine):
        module.train(training)
    for a, b in zip(mine(inputs(family)), theirs(inputs(family)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@torch.no_grad()
def test_with_modulation_it_is_not(family):
    theirs, mine = stirred(plain(family)), stirred(ours(family), seed=1)
    mine.load_state_dict(theirs.state_dict(), strict=False)
    assert not any(torch.allclose(a, b) for a, b in zip(mine(inputs(family)), theirs(inputs(family)), strict=True))


def test_the_same_seed_gives_the_same_neck(family):
    """Nothing is drawn before FINE, and no norm's statistics have changed by finding the widths."""
    theirs, mine = plain(family).state_dict(), ours(family).state_dict()
    assert all(torch.equal(mine[key], value) for key, value in theirs.items())
    counts = [value for key, value in mine.items() if key.endswith('num_batches_tracked')]
    assert counts and not any(counts)


def test_finding_the_widths_draws_nothing(family):
    plain(family)
    following = torch.rand(3)
    ours(family, fine_levels=[])
    assert torch.equal(torch.rand(3), following)


def test_it_is_built_in_training_mode(family):
    module = ours(family)
    assert all(part.training for part in module.modules())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


# What FINE sees -------------------------------------------------------------------------------------------------------


def calls_of(module):
    """What each of its parts was called with, and what it gave, by name and in the order of the calls."""
    calls = {}

    def keep(part, args, out):
        calls[names[part]] = args, out

    names = {part: name for name, part in module.named_modules() if name.count('.') == 1}
    for part in names:
        part.register_forward_hook(keep)
    return calls


@torch.no_grad()
def test_it_aligns_the_low_map_as_it_is_with_the_fused_high_one(family):
    """Level 1 with what the neck upsamples of stride 32; level 0 with what was fused at stride 16."""
    module, x = stirred(ours(family)), inputs(family)
    calls = calls_of(module)
    module(x)
    fused, top = calls['top_down_layers.0'][1], calls['reduce_layers.2'][1]
    low_inputs = x[-3:]
    for level, high in (('1', top), ('0', fused)):
        low, seen = calls[f'fine.{level}'][0]
        assert low is low_inputs[int(level)]  # not even copied, let alone projected
        if level in FAMILIES[family][3]:
            assert calls[f'fine_project.{level}'][0][0] is high
            assert seen is calls[f'fine_project.{level}'][1]
        else:
            assert seen is high
        assert seen.shape[1] == low.shape[1] and low.shape[2] == 2 * seen.shape[2]


@torch.no_grad()
def test_the_aligned_map_is_what_is_fused(family):
    """In the neck's order, beside the high map as it was before eq. 10."""
    module, x = stirred(ours(family)), inputs(family)
    calls = calls_of(module)
    module(x)
    for step, level in ((0, '1'), (1, '0')):
        aligned = calls[f'fine.{level}'][1]
        assert not torch.equal(aligned, x[-3:][int(level)])
        if family == 'v6 3.0':
            high, low, lower = calls[f'upsample_layers.{step}'][0][0]
            assert low is aligned
            assert lower is x[1 - step]  # the level below comes as it is
            continue
        up = calls[f'upsample_layers.{step}'][1]
        (pair,), _ = calls[f'top_down_layers.{step}']
        assert torch.equal(pair, torch.cat([up, aligned], dim=1))


@torch.no_grad()
def test_the_bottom_up_path_is_the_necks(family):
    module, x = stirred(ours(family)), inputs(family)
    calls = calls_of(module)
    outs = module(x)
    f3, f4, p5 = calls['top_down_layers.1'][1], calls['top_down_layers.0'][1], calls['reduce_layers.2'][1]
    n4 = module.bottom_up_layers[0](torch.cat([module.downsample_layers[0](f3), f4], dim=1))
    n5 = module.bottom_up_layers[1](torch.cat([module.downsample_layers[1](n4), p5], dim=1))
    for a, b in zip(outs, (f3, n4, n5), strict=True):
        assert torch.equal(a, b)


def test_the_high_map_is_projected_where_its_width_differs(family):
    """By a 1x1 convolution with a bias, to the low map's width."""
    module = ours(family)
    assert ''.join(sorted(module.fine_project)) == FAMILIES[family][3]
    for level, layer in module.fine_project.items():
        assert type(layer) is nn.Conv2d and layer.kernel_size == (1, 1) and layer.bias is not None
        assert layer.in_channels != layer.out_channels == module.fine[level].channels


def test_kernels_and_widths_of_the_paper(family):
    """k is 1 for stride 32 into 16 and 2 for stride 16 into 8, r is 2, and a head has 16 channels."""
    module = ours(family)
    widths = [width // 8 for width in FAMILIES[family][2]['in_channels'][-3:]]
    assert {level: fine.high_kernel for level, fine in module.fine.items()} == {'0': 2, '1': 1}
    assert {level: fine.low_kernel for level, fine in module.fine.items()} == {'0': 4, '1': 2}
    assert {level: fine.channels for level, fine in module.fine.items()} == {'0': widths[0], '1': widths[1]}
    assert all(fine.channels // fine.attention.num_heads == 16 for fine in module.fine.values())


# Laws -----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('size', [(64, 96), (160, 32)], ids=str)
def test_shapes_are_the_plain_necks(family, size):
    outs, theirs = (stirred(neck(family))(inputs(family, size=size)) for neck in (ours, plain))
    assert isinstance(outs, tuple) and [out.shape for out in outs] == [out.shape for out in theirs]


@torch.no_grad()
def test_batch_of_two_is_two_batches_of_one(family):
    module, x = stirred(ours(family)), inputs(family)
    alone = [module([level[i : i + 1] for level in x]) for i in range(2)]
    for out, *parts in zip(module(x), *alone, strict=True):
        torch.testing.assert_close(out, torch.cat(parts), rtol=1e-4, atol=1e-4)


def test_every_weight_has_a_gradient(family):
    """But a bias on the keys, which the softmax takes out again."""
    module = ours(family)
    weigh(module(inputs(family))).backward()
    assert all(re.search(r'^fine\.\d\.attention\.key\.\d\.bias$', name) for name in without_gradient(module))


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'options, kernels',
    [
        (dict(fine_levels=[0]), {'0': 2}),
        (dict(fine_levels=[1]), {'1': 1}),
        (dict(fine_levels=[1, 0]), {'1': 1, '0': 2}),
        (dict(fine_levels=[]), {}),
        (dict(fine_kernels=[4, 2]), {'0': 4, '1': 2}),
        (dict(fine_levels=[0], fine_kernels=[1]), {'0': 1}),
    ],
)
def test_levels_and_kernels_of_the_users_choice(family, options, kernels):
    module = ours(family, **options)
    assert {level: fine.high_kernel for level, fine in module.fine.items()} == kernels
    assert set(module.fine_project) == set(kernels) & set(FAMILIES[family][3])
    assert len(module(inputs(family))) == 3


@torch.no_grad()
@pytest.mark.parametrize('level', [0, 1])
def test_a_level_that_is_not_named_is_fused_as_it_is(family, level):
    module = silenced(stirred(ours(family, fine_levels=[level], fine=dict(modulation='direct'))))
    theirs = stirred(plain(family))
    theirs.load_state_dict(module.state_dict(), strict=False)
    x = inputs(family)
    low = x[-3:]
    low[level] = torch.zeros_like(low[level])  # what the direct form leaves of it
    for place, (a, b) in enumerate(zip(module(x), theirs([*x[:-3], *low]), strict=True)):
        if family == 'v6 3.0' and level == 0:
            break  # there, BiFusion gets the level once more, as it came
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=f'output {place}')


def test_finer_necks_have_kernels_by_level():
    """MMYOLO's YOLOv5 for P6: by default the two levels below the top, as everywhere."""
    widths = dict(in_channels=[256, 512, 768, 1024], out_channels=[256, 512, 768, 1024])
    module = ours('v5', **widths)
    assert {level: fine.high_kernel for level, fine in module.fine.items()} == {'1': 2, '2': 1}
    module = ours('v5', **widths, fine_levels=[0, 1, 2])
    assert {level: fine.high_kernel for level, fine in module.fine.items()} == {'0': 4, '1': 2, '2': 1}
    outs = module(maps([32, 64, 96, 128], (128, 192), strides=(8, 16, 32, 64)))
    sizes = [(32, 8), (64, 16), (96, 32), (128, 64)]
    assert [tuple(out.shape) for out in outs] == [(2, c, 128 // s, 192 // s) for c, s in sizes]


def test_options_of_fine_reach_all_its_modules(family):
    module = ours(family, fine=dict(ratio=1, num_heads=2, down='dwconv', modulation='direct'))
    for fine in module.fine.values():
        assert (fine.low_kernel, fine.attention.num_heads, fine.modulation) == (fine.high_kernel, 2, 'direct')
    assert type(module.fine['0'].down_low).__name__ == 'DepthwiseConvDown'


class Half(nn.Module):
    """An aligning module of a user's own."""

    def __init__(self, channels, kernel, factor=0.5):
        super().__init__()
        self.channels, self.kernel, self.factor = channels, kernel, factor

    def forward(self, low, high):
        assert low.shape[1] == high.shape[1] == self.channels
        return low * self.factor


@torch.no_grad()
def test_another_aligning_module(family):
    module, theirs = stirred(ours(family, fine=dict(type=Half, factor=0.25))), stirred(plain(family))
    theirs.load_state_dict(module.state_dict(), strict=False)
    assert [(align.kernel, align.factor) for align in module.fine.values()] == [(2, 0.25), (1, 0.25)]
    x = inputs(family)
    if family == 'v6 3.0':
        assert len(module(x)) == 3
        return
    for a, b in zip(module(x), theirs([x[0] * 0.25, x[1] * 0.25, x[2]]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_all_can_be_frozen(family):
    module = ours(family, freeze_all=True)
    module.train()
    assert not any(p.requires_grad for p in module.parameters())


# Starts ---------------------------------------------------------------------------------------------------------------


class Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def warned(recwarn):
    """MMEngine's warnings, which a filter shows but once a process."""
    handler, logger = Warnings(), MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)
    assert not [str(warning.message) for warning in recwarn if 'init_weights' in str(warning.message)]


def assert_starts_as_documented(module):
    """Xavier in the attention, the average where a convolution samples, PyTorch's own where a map is projected."""
    for level, fine in module.fine.items():
        bound = (6 / (2 * fine.channels)) ** 0.5
        for name, parameter in fine.attention.named_parameters():
            assert (parameter == 0).all() if name.endswith('bias') else 0.9 * bound < parameter.abs().max() <= bound
        assert (fine.down_low.conv.weight == 1 / fine.low_kernel**2).all(), level
    for layer in module.fine_project.values():
        bound = layer.in_channels**-0.5
        assert 0.8 * bound < layer.weight.abs().max() <= bound * 1.0001 and layer.bias.abs().max() <= bound * 1.0001


@pytest.mark.parametrize('init_cfg', [None, dict(type='Constant', layer=['Conv2d', 'Linear'], val=0.5, bias=0.5)])
def test_fines_own_start_survives_the_necks(family, init_cfg, warned):
    module = ours(family, fine=dict(down='dwconv'), init_cfg=init_cfg)
    for part in (module.fine, module.fine_project):
        for parameter in part.parameters():
            nn.init.constant_(parameter, 7)
    module.init_weights()
    assert_starts_as_documented(module)
    assert not warned
    if init_cfg:
        last = [layer for layer in module.bottom_up_layers.modules() if isinstance(layer, nn.Conv2d)]
        assert last and all((layer.weight == 0.5).all() for layer in last)


def test_a_second_start_is_like_the_first(family):
    """Whatever the neck did to FINE's layers meanwhile."""
    module = ours(family, fine=dict(down='dwconv'))
    module.init_weights()
    for part in (module.fine, module.fine_project):
        for parameter in part.parameters():
            nn.init.constant_(parameter, 7)
    module.init_weights()
    assert_starts_as_documented(module)


@pytest.mark.parametrize('init_cfg', [None, dict(type='Constant', layer='Conv2d', val=0.25)])
def test_a_start_of_the_users_stands_in_fine(family, init_cfg, warned):
    """``init_cfg`` of FINE, with one of the neck's and without; it stands over those of its parts."""
    start = dict(type='Constant', layer='Linear', val=0.5, bias=0.125)
    module = ours(family, fine=dict(init_cfg=start), init_cfg=init_cfg)
    module.init_weights()
    for fine in module.fine.values():
        for name, parameter in fine.attention.named_parameters():
            assert (parameter == (0.125 if name.endswith('bias') else 0.5)).all()
    assert not warned


# Weights of the paper's models ----------------------------------------------------------------------------------------

WIDE = dict(widen_factor=0.5, deepen_factor=1 / 3)


@pytest.mark.parametrize(
    'family, more, paper',
    [
        ('v8', 822_656, 1.1),  # 11.2 M to 12.3 M in table 1
        ('v10', 822_656, 0.9),  # 8.1 M to 9.0 M
        ('v12', 1_184_000, 1.4),  # 9.1 M to 10.5 M
        ('v5', 658_432, None),
        ('v6', 699_776, None),
        ('v6 3.0', 699_776, None),
    ],
)
def test_weights_beside_the_papers(family, more, paper):
    """8 C^2 and 8 C for each of two modules, and the 1x1 convolutions; the paper's are within 0.3 M."""
    cls, base, widths, projected = FAMILIES[family]
    module, theirs = build(cls, **widths, **WIDE), build(base, **widths, **WIDE)
    added = count(module) - count(theirs)
    assert added == count(module.fine, module.fine_project) == more
    low = [width // 2 for width in widths['in_channels'][-3:]]
    assert count(module.fine) == sum(8 * c * c + 8 * c for c in low[:2])
    if paper is not None:
        assert added / 1e6 == pytest.approx(paper, abs=0.3)


# Families of a user's own ---------------------------------------------------------------------------------------------


def user_family(name):
    """Two lines, as the module's text says."""
    from mmyolo.models import necks

    from mmscale.fine.yolo_necks import FINEYOLOMixin

    base = getattr(necks, name)
    return type(f'FINE{name}', (FINEYOLOMixin, base), {}), base


USERS = {
    'YOLOX': ('YOLOXPAFPN', dict(in_channels=[256, 512, 1024], out_channels=256)),
    'v7': ('YOLOv7PAFPN', dict(in_channels=[512, 1024, 1024], out_channels=[128, 256, 512])),
    'PP-YOLOE': ('PPYOLOECSPPAFPN', dict(in_channels=[256, 512, 1024], out_channels=[192, 384, 768])),
    'RTMDet': ('CSPNeXtPAFPN', dict(in_channels=[256, 512, 1024], out_channels=256)),
}


def user_necks(name, narrow):
    """FINE's and the plain one; of small widths by the factor or as they are given."""
    base_name, widths = USERS[name]
    cls, base = user_family(base_name)
    options = dict(widths, deepen_factor=1 / 3)
    if narrow == 'by the factor':
        options['widen_factor'] = 1 / 8
    else:
        options |= {
            key: value // 8 if isinstance(value, int) else [width // 8 for width in value]
            for key, value in widths.items()
        }
    mine = stirred(cls(**options))  # under whatever scope is set
    with DefaultScope.overwrite_default_scope('mmyolo'):
        theirs = stirred(base(**options))
    return [mine, theirs], [width // 8 for width in widths['in_channels']]


@torch.no_grad()
@pytest.mark.parametrize('narrow', ['as given', 'by the factor'])
@pytest.mark.parametrize('name', USERS)
def test_a_users_own_family(name, narrow):
    (mine, theirs), widths = user_necks(name, narrow)
    x = maps(widths, size=(64, 96))
    assert not torch.allclose(mine(x)[0], theirs(x)[0])
    missing, unexpected = silenced(mine).load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected and all(key.startswith(('fine.', 'fine_project.')) for key in missing)
    for a, b in zip(mine(x), theirs(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize('name', USERS)
def test_fines_own_start_survives_there_too(name, warned):
    (module, _), _ = user_necks(name, 'as given')
    for parameter in module.fine.parameters():
        nn.init.constant_(parameter, 7)
    module.init_weights()
    for fine in module.fine.values():
        bound = (6 / (2 * fine.channels)) ** 0.5
        for key, parameter in fine.attention.named_parameters():
            assert (parameter == 0).all() if key.endswith('bias') else 0.9 * bound < parameter.abs().max() <= bound
    assert not warned


@torch.no_grad()
def test_yolov7_puts_the_low_map_first():
    """Its neck concatenates the other way round."""
    (module, _), widths = user_necks('v7', 'as given')
    calls = calls_of(module)
    module(maps(widths, size=(64, 96)))
    aligned, up = calls['fine.1'][1], calls['upsample_layers.0'][1]
    assert torch.equal(calls['top_down_layers.0'][0][0], torch.cat([aligned, up], dim=1))


def test_it_builds_under_another_default_scope(family):
    """YOLOv6's and others' necks name their blocks without MMYOLO's scope; a config of MMDetection's has its own."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert len(ours(family)(inputs(family))) == 3


@torch.no_grad()
@pytest.mark.parametrize('family', ['v6', 'v6 3.0', 'v8', 'v10'])
def test_a_factor_that_leaves_no_multiples_of_eight(family):
    """MMYOLO rounds such widths up, but those of YOLOv6's necks it does not."""
    cls, base, widths, _ = FAMILIES[family]
    options = dict(widths, widen_factor=3 / 64, deepen_factor=1 / 3)
    scaled = [width * 3 // 64 for width in widths['in_channels']]
    if not family.startswith('v6'):
        scaled = [-(-width // 8) * 8 for width in scaled]
    x = maps(scaled, strides=[32 >> place for place in reversed(range(len(scaled)))])
    theirs, mine = stirred(build(base, **options)), stirred(build(cls, **options, fine=dict(num_heads=1)))
    silenced(mine).load_state_dict(theirs.state_dict(), strict=False)
    for a, b in zip(mine(x), theirs(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(fine_levels=[2]),
            r'fine_levels=\[2\] names level 2, but this neck fuses into the levels \[0, 1\] '
            r'\(in_channels=\[256, 512, 1024\]\)$',
        ),
        (dict(fine_levels=[-1, 0]), r'fine_levels=\[-1, 0\] names level -1, but this neck fuses into the levels'),
        (dict(fine_kernels=[1]), r'fine_kernels=\[1\] must name one kernel for each of the distinct fine_levels=\[0, '),
        (dict(fine_levels=[0, 0]), r'must name one kernel for each of the distinct fine_levels=\[0, 0\]'),
        (dict(fine_kernels=[2, 0]), 'kernel=0 of FINE must be a whole number from 1'),
        (dict(fine=dict(kernel=2)), 'fine.kernel=2 is set per level: use fine_kernels'),
        (dict(fine=dict(channels=48)), 'fine.channels=48 does not match'),
        (dict(fine=dict(heads=4)), 'fine has no option heads=4: its options are ratio, num_heads, down'),
        (dict(fine=dict(num_heads=5)), 'num_heads=5 does not divide channels='),
        (dict(fine_level=[1]), r'FINEYOLOv\w+PAFPN has no option fine_level=\[1\]: its options are fine, fine_levels'),
        (dict(widen=1), r'FINEYOLOv\w+PAFPN has no option widen=1: its options are fine, fine_levels, fine_kernels'),
    ],
)
@pytest.mark.parametrize('family', ['v6 3.0', 'v8', 'v10'])
def test_a_bad_config_is_one_sentence(family, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        ours(family, **options)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('family, number', [('v8', 3), ('v5', 3), ('v6', 3), ('v6 3.0', 4), ('v12', 3)])
@pytest.mark.parametrize('change', [-1, 1])
def test_another_number_of_maps_is_one_sentence(family, number, change):
    x = inputs(family)
    x = x[1:] if change < 0 else [x[0], *x]
    with pytest.raises(ValueError) as caught:
        ours(family)(x)
    assert str(caught.value) == f'{FAMILIES[family][0]} got {number + change} maps, but was built for {number}'


def test_its_modules_are_fines(family):
    assert {type(module) for module in ours(family).fine.values()} == {FINE}

"""CSFBackbone equals its drawing in all of its forms; who reaches whom; starts and errors."""

import math
from itertools import product

import pytest
import torch
from torch import nn

from mmscale.csf_net import CSwitch, DFuse
from mmscale.registry import HAS_MMYOLO

from ..yolo.small import ABSENT, build, count, stirred, weigh, without_gradient

if not HAS_MMYOLO:
    pytest.skip(ABSENT, allow_module_level=True)

TINY = dict(widen_factor=1 / 16, fusion_blocks=(1, 1, 1, 1))
WIDTHS = [16, 32, 64]
FOUR = 'of CSFBackbone should be four positive numbers'
QUOTAS = 'of CSFBackbone should be three positive numbers: for the strides 8, 16 and 32'
ROWS = {
    'paper': dict(),
    'without CSwitch': dict(switch=False),
    'without DFuse': dict(fusion='concat'),
    'without both': dict(switch=False, fusion='concat'),
    'other quotas': dict(quotas=[16, 8, 24]),
    'other quotas, without DFuse': dict(quotas=(16, 8, 24), fusion='concat'),
    'one block more': dict(fusion_blocks=(1, 2, 1, 3)),
    'pointwise switches': dict(switch_kernel=1),
    'narrow top': dict(last_stage_out_channels=512),
    'wider': dict(widen_factor=1 / 8),
}


def backbone(seed=0, **options):
    torch.manual_seed(seed)
    return build('CSFBackbone', **{**TINY, **options})


def image(height=64, width=96, batch=1, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=ROWS.values(), ids=ROWS)
def row(request):
    return request.param


def nearest(x, like):
    rows = torch.arange(like.shape[2]) * x.shape[2] // like.shape[2]
    columns = torch.arange(like.shape[3]) * x.shape[3] // like.shape[3]
    return x[:, :, rows][:, :, :, columns]


def fused(module, maps):
    """The maps at the last one's size and width: added up, or side by side before a 1x1."""
    if not isinstance(module, DFuse):
        return module.mix(torch.cat([nearest(x, maps[-1]) for x in maps], dim=1))
    total = maps[-1]
    for project, x in zip(module.project, maps, strict=False):
        total = total + nearest(project(x) if x.shape[1] != total.shape[1] else x, total)
    return total


def literal(module, x):
    """Fig. 1: where a map comes from and where it goes, stage by stage."""
    shallow, maps = module.shallow, []
    y = shallow.stage1(shallow.stem(x))
    for stage in (shallow.stage2, shallow.stage3, shallow.stage4):
        y = stage(y)
        maps.append(y)
    deep, outs = module.deep, []
    y = deep.stage1(deep.stem(x))
    for place, stage in enumerate((deep.stage2, deep.stage3, deep.stage4)):
        y = stage[0](y)
        if module.switches:
            quotas = module.switches[0].quotas
            branches = [
                switch.conv(x)[:, sum(quotas[:place]) : sum(quotas[: place + 1])]
                for switch, x in zip(module.switches, maps, strict=True)
            ]
            y = fused(module.early_fuses[place], [*branches, y])
        y = stage[1](y)
        if place == 2:
            y = stage[2](y)
        outs.append(y)
    return [fused(fuse, [x, y]) for fuse, x, y in zip(module.late_fuses, maps, outs, strict=True)]


@torch.no_grad()
def test_it_is_its_drawing(row):
    module, x = stirred(backbone(**row)), image()
    outs = module(x)
    assert isinstance(outs, tuple)
    for a, b in zip(outs, literal(module, x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('size', [(64, 96), (32, 32), (160, 32), (50, 75)], ids=str)
def test_shapes(row, size):
    outs = stirred(backbone(**row))(image(*size))
    scale = row.get('widen_factor', 1 / 16)
    widths = [int(width * scale) for width in (256, 512, row.get('last_stage_out_channels', 1024))]
    shapes = [
        (1, width, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for width, stride in zip(widths, (8, 16, 32), strict=True)
    ]
    assert [tuple(out.shape) for out in outs] == shapes


def test_every_weight_has_a_gradient(row):
    module = backbone(**row)
    weigh(module(image(96, 96, batch=2))).backward()
    assert not without_gradient(module)


@torch.no_grad()
def test_batch_of_two_is_two_batches_of_one(row):
    module, x = stirred(backbone(**row)), image(batch=2)
    alone = [module(x[i : i + 1]) for i in range(2)]
    for out, *parts in zip(module(x), *alone, strict=True):
        torch.testing.assert_close(out, torch.cat(parts), atol=1e-5, rtol=1e-5)


# Who reaches whom -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('fusion', ['dfuse', 'concat'])
@pytest.mark.parametrize('source, receiver', list(product(range(3), range(3))))
def test_every_shallow_level_reaches_every_fused_stage(source, receiver, fusion):
    """A change of one branch of one CSwitch is seen by that stage and those behind it."""
    module, x = stirred(backbone(fusion=fusion)), image()
    before = module(x)

    def change(switch, args, branches):
        return tuple(branch + (place == receiver) for place, branch in enumerate(branches))

    module.switches[source].register_forward_hook(change)
    changed = [not torch.allclose(a, b) for a, b in zip(module(x), before, strict=True)]
    assert changed == [place >= receiver for place in range(3)]


def test_every_switch_takes_its_own_level():
    module, seen = stirred(backbone()), []
    levels = []
    module.shallow.register_forward_hook(lambda m, args, outs: levels.extend(outs))
    for switch in module.switches:
        switch.register_forward_hook(lambda m, args, outs: seen.append(args[0]))
    module(image())
    assert len(levels) == 3 and all(a is b for a, b in zip(seen, levels, strict=True))


@torch.no_grad()
def test_without_switches_the_backbones_meet_where_they_leave():
    module, x = stirred(backbone(switch=False)), image()
    assert not module.switches and not module.early_fuses
    shallow, deep = module.shallow(x), module.deep(x, lambda place, y: y)
    for out, a, b in zip(module(x), shallow, deep, strict=True):
        assert torch.equal(out, b + a)


def test_both_backbones_see_the_image_itself():
    module, x = backbone(), image()
    seen = []
    for stem in (module.shallow.stem, module.deep.stem):
        stem.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    module(x)
    assert len(seen) == 2 and all(torch.equal(y, x) for y in seen)


# Parts ----------------------------------------------------------------------------------------------------------------


def test_quotas_are_the_stages_widths_unless_told():
    module = backbone()
    assert [switch.quotas for switch in module.switches] == [WIDTHS] * 3
    assert [switch.conv.in_channels for switch in module.switches] == WIDTHS
    assert {switch.conv.kernel_size for switch in module.switches} == {(3, 3)}
    assert count(module.early_fuses, module.late_fuses) == 0  # equal widths: DFuse has no weights


def test_other_quotas_are_projected_where_they_differ():
    module = backbone(quotas=[16, 8, 24])
    assert [switch.quotas for switch in module.switches] == [[16, 8, 24]] * 3
    kinds = [[type(layer) for layer in fuse.project] for fuse in module.early_fuses]
    assert kinds == [[nn.Identity] * 3, [nn.Conv2d] * 3, [nn.Conv2d] * 3]


@pytest.mark.parametrize('fusion, kind', [('dfuse', 'DFuse'), ('concat', 'ConcatFuse')])
def test_what_joins_the_maps(fusion, kind):
    module = backbone(fusion=fusion)
    fuses = [*module.early_fuses, *module.late_fuses]
    assert len(fuses) == 6 and {type(fuse).__name__ for fuse in fuses} == {kind}


def test_blocks_of_the_fusion_backbone_are_its_own():
    module = backbone(fusion_blocks=(1, 2, 3, 4), deepen_factor=1.0)
    deep, shallow = (
        [len(stage[1].blocks) for stage in (part.stage1, part.stage2, part.stage3, part.stage4)]
        for part in (module.deep, module.shallow)
    )
    assert deep == [1, 2, 3, 4] and shallow == [3, 6, 6, 3]


def test_defaults_are_the_papers_n():
    module = build('CSFBackbone')
    assert [switch.quotas for switch in module.switches] == [[64, 128, 256]] * 3
    deep = [len(stage[1].blocks) for stage in (module.deep.stage1, module.deep.stage2, module.deep.stage3)]
    assert deep == [1, 2, 3] and len(module.deep.stage4[1].blocks) == 3
    shallow = [len(stage[1].blocks) for stage in (module.shallow.stage1, module.shallow.stage2)]
    assert shallow == [1, 2]


def test_mmyolos_backbone_stays_as_it_is():
    """The numbers of blocks are the instance's."""
    before = count(build('mmyolo.YOLOv8CSPDarknet', widen_factor=1 / 16))
    backbone(fusion_blocks=(2, 1, 1, 1), last_stage_out_channels=512)
    assert count(build('mmyolo.YOLOv8CSPDarknet', widen_factor=1 / 16)) == before


def test_norm_and_activation_are_the_users_in_every_layer(row):
    norms = [m for m in backbone(**row).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(0.001, 0.03)}
    layers = dict(norm_cfg=dict(type='BN', eps=0.25), act_cfg=dict(type='ReLU'))
    mine = backbone(**row, **layers)
    assert {m.eps for m in mine.modules() if isinstance(m, nn.BatchNorm2d)} == {0.25}
    assert not any(isinstance(m, nn.SiLU) for m in mine.modules())


def test_the_papers_number_of_weights():
    """6.87 M for n and one class; ours 6.85. Without CSwitch, and as YOLOv8-n, less."""
    scale = dict(deepen_factor=0.33, widen_factor=0.25)
    widths = dict(in_channels=[256, 512, 1024], out_channels=[256, 512, 1024])
    module = dict(num_classes=1, in_channels=[256, 512, 1024], widen_factor=0.25)
    with torch.device('meta'):
        head = build('mmyolo.YOLOv8HeadModule', **module)
        neck = build('CSFPAFPN', **widths, **scale)
        full = count(build('CSFBackbone', **scale), neck, head)
        without = count(build('CSFBackbone', switch=False, **scale), neck, head)
        plain = build('mmyolo.YOLOv8CSPDarknet', **scale), build('mmyolo.YOLOv8PAFPN', **widths, **scale), head
    assert full == 6_848_483 and full / 1e6 == pytest.approx(6.87, abs=0.025)
    switches = sum(9 * width * 448 + 448 for width in (64, 128, 256))
    assert without == full - switches
    assert count(*plain) == 3_011_027


# Starts ---------------------------------------------------------------------------------------------------------------


def test_every_convolution_starts_as_pytorchs(row):
    """Uniform up to one over the root of its inputs."""
    module = backbone(**row)
    for layer in (*module.shallow.modules(), *module.deep.modules()):
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 7)
    module.init_weights()
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and not name.startswith(('switches', 'early_fuses', 'late_fuses')):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.7 * bound < layer.weight.abs().max() <= bound * 1.0001, name


def test_the_fusions_start_as_pytorchs(row):
    module = backbone(**row)
    module.init_weights()
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and name.startswith(('switches', 'early_fuses', 'late_fuses')):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.7 * bound < layer.weight.abs().max() <= bound * 1.0001, name


@pytest.mark.parametrize('fusion', ['dfuse', 'concat'])
def test_a_start_of_the_users_stands_where_the_backbones_meet(fusion):
    """Of the backbones' own layers MMYOLO draws what they start from, unless ``shallow`` says otherwise."""
    start = dict(type='Constant', layer='Conv2d', val=0.5)
    module = backbone(fusion=fusion, quotas=[16, 8, 24], init_cfg=start)
    module.init_weights()
    joints = nn.ModuleList([module.switches, module.early_fuses, module.late_fuses])
    layers = [layer for layer in joints.modules() if isinstance(layer, nn.Conv2d)]
    assert layers and all((layer.weight == 0.5).all() for layer in layers)


def test_the_shallow_backbone_starts_from_a_file(tmp_path):
    """As the paper's from YOLOv8-n's weights."""
    plain = build('mmyolo.YOLOv8CSPDarknet', widen_factor=1 / 16, deepen_factor=0.33)
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'plain.pth')
    start = dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth'))
    module = backbone(shallow=dict(init_cfg=start))
    module.init_weights()
    ours = module.shallow.state_dict()
    assert ours.keys() == plain.state_dict().keys()
    assert all(torch.equal(ours[key], value) for key, value in plain.state_dict().items())


def test_options_of_the_shallow_backbone_reach_it_alone():
    module = backbone(shallow=dict(frozen_stages=1))
    module.train()
    assert not any(p.requires_grad for p in module.shallow.stage1.parameters())
    assert all(p.requires_grad for p in module.deep.parameters())


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(fusion_blocks=(1, 2, 3)), 'fusion_blocks=(1, 2, 3) of CSFBackbone should be four positive numbers'),
        (dict(fusion_blocks=(1, 2, 3, 0)), 'fusion_blocks=(1, 2, 3, 0) of CSFBackbone should be four positive numbers'),
        (dict(fusion_blocks=3), 'fusion_blocks=3 of CSFBackbone should be four positive numbers'),
        (dict(fusion_blocks=[1, 2, 3, 0.5]), f'fusion_blocks=[1, 2, 3, 0.5] {FOUR}'),
        (dict(fusion_blocks='1233'), "fusion_blocks='1233' of CSFBackbone should be four positive numbers"),
        (dict(quotas=[8, 8]), f'quotas=[8, 8] {QUOTAS}'),
        (dict(quotas=[]), f'quotas=[] {QUOTAS}'),
        (dict(quotas=[8, 8, 0]), f'quotas=[8, 8, 0] {QUOTAS}'),
        (dict(quotas=64), f'quotas=64 {QUOTAS}'),
        (dict(quotas=[8, 8, True]), f'quotas=[8, 8, True] {QUOTAS}'),
        (dict(switch_kernel=2), 'kernel=2 of CSwitch should be an odd number from 1'),
        (dict(switch_kernel=3.0), 'kernel=3.0 of CSwitch should be an odd number from 1'),
        (dict(switch_kernel='3'), "kernel='3' of CSwitch should be an odd number from 1"),
        (dict(fusion='sum'), "fusion='sum' of CSFBackbone should be 'dfuse' or 'concat'"),
        (dict(shallow=2), 'shallow=2 of CSFBackbone should be a dict of options'),
        (dict(shallow=[]), 'shallow=[] of CSFBackbone should be a dict of options'),
        (dict(shallow=dict(widen_factor=0.5)), 'shallow.widen_factor=0.5 cannot be set: CSFBackbone sets it'),
        (dict(shallow=dict(out_indices=(4,))), 'shallow.out_indices=(4,) cannot be set: CSFBackbone sets it'),
        (dict(shallow=dict(type='Other')), "shallow.type='Other' cannot be set: CSFBackbone sets it"),
        (
            dict(shallow=dict(depen_factor=1)),
            'shallow has no option depen_factor=1: its options are plugins, frozen_stages, norm_eval, init_cfg',
        ),
        (
            dict(shalow=dict(plugins=2)),
            "CSFBackbone has no option shalow={'plugins': 2}: its options are last_stage_out_channels, deepen_factor, "
            'widen_factor, fusion_blocks, switch_kernel, quotas, switch, fusion, norm_cfg, act_cfg, shallow, init_cfg',
        ),
    ],
)
def test_what_it_refuses_is_one_sentence(options, message):
    with pytest.raises(ValueError) as caught:
        backbone(**options)
    assert str(caught.value) == message


def test_a_child_of_a_users_may_have_options_of_its_own():
    from mmscale.csf_net.backbone import CSFBackbone

    class Child(CSFBackbone):
        def __init__(self, *args, more=1, **kwargs):
            super().__init__(*args, **kwargs)

    assert len(Child(**TINY, more=2).switches) == 3
    with pytest.raises(ValueError, match='^CSFBackbone has no option les=1: '):
        Child(**TINY, les=1)


def test_the_switches_are_cswitches():
    assert {type(switch) for switch in backbone().switches} == {CSwitch}

"""HCSS-Fusion against its literal form, its masks, and its place in MMDetection's ResNets."""

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from mmscale.hsd_detr import HCSSFusion
from mmscale.layers import RMSNorm2d, reparameterize

from ..layers.test_reparam import stirred
from . import literal
from .test_ss2d import ALL, assert_same, count, results, weighed, weights

SMALL = dict(state_channels=3, expansion=1.5, head_channels=3)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small(directions=ALL, dtype=torch.float64, **options):
    """Six channels; masks that differ from pixel to pixel."""
    module = stirred(HCSSFusion(6, ss2d=dict(SMALL, directions=directions), **options))
    nn.init.uniform_(module.ss2d.step_bias, -2.0, 0.5)
    nn.init.uniform_(module.ss2d.log_rate, -2.0, 0.0)
    nn.init.normal_(module.masks.weight, std=0.5)
    return module.to(dtype)


def plain(module, training=False):
    return lambda x: literal.hcss_fusion(weights(module), x, module.ss2d.directions, 3, training)


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(kernel_size=5),
        dict(kernel_size=1, mask_kernel_size=1),
        dict(mask_kernel_size=3),
        dict(directions=('left', 'down')),
    ],
    ids=str,
)
def test_values_and_gradients(options):
    module, x = small(**options), torch.randn(2, 6, 3, 4, dtype=torch.float64)
    assert_same(results(module, module, x), results(plain(module), module, x), 1e-6)


def test_values_and_gradients_in_training():
    module, x = small().train(), torch.randn(2, 6, 3, 3, dtype=torch.float64)
    ours, expected = results(module, module, x), results(plain(module, training=True), module, x)
    assert_same(ours, expected, 1e-6)


def test_single_precision():
    module, x = small(dtype=torch.float32), torch.randn(2, 6, 4, 5)
    assert_same(results(module, module, x), results(plain(module), module, x), 1e-5)


def masks_of(module, x):
    """What the sigmoid gives, one map for each branch."""
    seen = []
    hook = module.masks.register_forward_hook(lambda _, __, out: seen.append(out.sigmoid()))
    out = module(x)
    hook.remove()
    return out, *seen[0].split(1, dim=1)


def test_masks_weigh_the_branches_pixel_by_pixel():
    module, x = small(), torch.randn(2, 6, 5, 7, dtype=torch.float64)
    out, first, second = masks_of(module, x)
    assert first.shape == second.shape == (2, 1, 5, 7)
    for mask in (first, second):
        assert 0 < mask.min() < mask.max() < 1
    local, context = module.local_proj(module.local(x)), module.global_proj(module.ss2d(x))
    torch.testing.assert_close(out, first * local + second * context, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('branch', [0, 1])
def test_a_closed_mask_leaves_the_other_branch(branch):
    """A bias of -inf closes it and one of +inf opens it: what is left is one projected branch."""
    module, x = small(), torch.randn(2, 6, 5, 7, dtype=torch.float64)
    module.masks.bias.data[branch], module.masks.bias.data[1 - branch] = -torch.inf, torch.inf
    other = module.local_proj(module.local(x)) if branch else module.global_proj(module.ss2d(x))
    torch.testing.assert_close(module(x), other, rtol=1e-12, atol=1e-12)


def test_the_masks_see_both_branches_alike():
    """U is their sum: what one loses the other can give."""
    module, x = small(), torch.randn(2, 6, 5, 7, dtype=torch.float64)
    _, *before = masks_of(module, x)
    local, context, shift = module.local(x), module.ss2d(x), torch.randn(2, 6, 5, 7, dtype=torch.float64)
    module.local.forward = lambda _: local + shift
    module.ss2d.forward = lambda _: context - shift
    _, *after = masks_of(module, x)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b)


def test_near_and_far():
    """The local branch sees its kernel's neighbourhood, the global one the whole map."""
    module = small()
    for branch, module_of in (('local', module.local), ('global', module.ss2d)):
        x = torch.randn(1, 6, 5, 7, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(module_of(x)[..., 2, 3].square().sum(), x)
        seen = (gradient != 0).any(1).squeeze()
        expected = torch.ones(5, 7, dtype=torch.bool)
        if branch == 'local':
            expected[:] = False
            expected[1:4, 2:5] = True
        assert seen.equal(expected), branch


def test_parameters_by_hand():
    """C = 64 with all defaults, SS2D's by its own test."""
    local, masks, projections = 64 * 9 + 2 * 64, 2 * 2 * 49 + 2, 2 * (64 * 64 + 2 * 64)
    ss2d = (64 * 128 + 128) + (128 * 9 + 128) + 128 * 144 + 32 + 4 + 128 + (128 * 64 + 64)
    module = HCSSFusion(64)
    assert count(module.ss2d) == ss2d
    assert count(module) == local + masks + projections + ss2d
    assert count(HCSSFusion(64, kernel_size=5)) - count(module) == 64 * 16
    assert count(module) - count(HCSSFusion(64, mask_kernel_size=3)) == 4 * 40


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (5, 1), (7, 5)], ids=str)
def test_any_size(size):
    x = torch.randn(2, 16, *size)
    out = stirred(HCSSFusion(16))(x)
    assert out.shape == x.shape and out.isfinite().all()


def test_every_parameter_gets_a_gradient():
    module = HCSSFusion(16)
    weighed(module(torch.randn(2, 16, 5, 7))).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_a_batch_of_two_is_two_of_one():
    module, x = small(), torch.randn(2, 6, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(module(x), torch.cat([module(x[:1]), module(x[1:])]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('half', [torch.bfloat16, torch.float16])
def test_mixed_precision(half):
    module, x = stirred(HCSSFusion(16)), torch.randn(2, 16, 6, 7)
    with torch.autocast('cpu', half):
        out = module(x)
    expected = module(x)
    assert out.isfinite().all()
    assert (out - expected).abs().max() < 0.03 * expected.abs().max()


def test_re_parameterised_is_the_same():
    module, x = stirred(HCSSFusion(16)), torch.randn(2, 16, 5, 7)
    folded = reparameterize(module)
    torch.testing.assert_close(folded(x), module(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reparameterize(folded)(x), module(x), rtol=1e-5, atol=1e-5)


def test_options_reach_the_parts():
    groups = dict(type='GN', num_groups=2)
    module = HCSSFusion(16, norm_cfg=groups)
    norms = [type(m) for m in module.modules() if 'Norm' in type(m).__name__]
    assert norms == [nn.GroupNorm, RMSNorm2d, nn.GroupNorm, nn.GroupNorm]
    module = HCSSFusion(16, norm_cfg=groups, ss2d=dict(head_channels=8, chunk=5))
    assert (module.ss2d.num_heads, module.ss2d.chunk) == (4, 5)
    assert HCSSFusion(16, kernel_size=5, mask_kernel_size=3).masks.kernel_size == (3, 3)


def test_the_scan_starts_anew_with_the_rest():
    module = HCSSFusion(16)
    for parameter in module.parameters():
        parameter.data.fill_(9.0)
    module.init_weights()
    steps, rates = nn.functional.softplus(module.ss2d.step_bias), module.ss2d.log_rate.exp()
    assert ((steps > 0.00099) & (steps < 0.101)).all() and ((rates >= 1) & (rates <= 16)).all()
    assert not any((p == 9).any() for p in module.parameters())


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(kernel_size=4), 'kernel_size=4 of HCSSFusion should be odd'),
        (dict(kernel_size=-1), 'kernel_size=-1 of HCSSFusion should be odd'),
        (dict(mask_kernel_size=0), 'mask_kernel_size=0 of HCSSFusion should be odd'),
        (dict(ss2d=dict(states=4)), 'ss2d has no option states=4: its options are state_channels, expansion, '),
        (dict(ss2d=dict(chunk=0)), 'state_channels=16 and chunk=0 of SS2D'),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=f'^{message}'):
        HCSSFusion(16, **options)


def test_as_a_plugin_of_mmdetections_resnet():
    """As its docstring says: behind the 3x3 convolution of every block of the last three stages."""
    init_default_scope('mmdet')
    plugins = [dict(cfg=dict(type='mmscale.HCSSFusion'), stages=(False, True, True, True), position='after_conv2')]
    cfg = dict(type='ResNet', depth=50, base_channels=8, plugins=plugins)
    backbone = MODELS.build(cfg)
    backbone.init_weights()
    fusions = {name: m for name, m in backbone.named_modules() if isinstance(m, HCSSFusion)}
    assert len(fusions) == 4 + 6 + 3 and not any(name.startswith('layer1') for name in fusions)
    assert [fusions[f'layer{i}.0.hcss_fusion'].local.in_channels for i in (2, 3, 4)] == [16, 32, 64]
    stirred(backbone)  # MMDetection starts every block's last norm at zero
    backbone.train()
    image = torch.randn(2, 3, 64, 96)
    outs = backbone(image)
    assert [out.shape for out in outs] == [out.shape for out in ResNet(50, base_channels=8)(image)]
    sum(weighed(out) for out in outs).backward()
    for name, fusion in fusions.items():
        assert all(p.grad.isfinite().all() and p.grad.any() for p in fusion.parameters()), name
    backbone.eval()
    before = backbone(image)
    fusions['layer3.0.hcss_fusion'].global_proj.bn.bias.data += 1
    assert backbone(image)[1].equal(before[1]) and not backbone(image)[2].equal(before[2])

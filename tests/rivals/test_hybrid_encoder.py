"""The four methods in RT-DETR's hybrid encoder."""

import pytest
import torch
import torch.nn.functional as F

from mmscale.registry import MODELS

from .pyramid import TABLE_2_FAPN, stirred

WIDTHS = [16, 24, 32]
SMALL = dict(in_channels=WIDTHS, out_channels=32, num_blocks=1, aifi=dict(num_heads=2, feedforward_channels=32))
METHODS = ['SNI', 'FaPN', 'AdaFPN', 'MGC']
CLOSE = dict(rtol=1e-3, atol=1e-3)  # of maps whose values reach 100


def maps(height=96, width=128, batch=1, widths=WIDTHS):
    torch.manual_seed(0)
    strides = [32 >> i for i in reversed(range(len(widths)))]
    return tuple(torch.randn(batch, c, -(-height // s), -(-width // s)) for c, s in zip(widths, strides, strict=True))


def neck(method='', **options):
    torch.manual_seed(1)
    return MODELS.build({'type': f'mmscale.{method}HybridEncoder', **SMALL, **options})


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.mark.parametrize('size', [(96, 128), (97, 161), (65, 64)])
def test_any_image_size(method, size):
    inputs = maps(*size)
    with torch.no_grad():
        outs = neck(method).eval()(inputs)
    assert [tuple(out.shape) for out in outs] == [(1, 32, *x.shape[-2:]) for x in inputs]
    assert all(out.isfinite().all() for out in outs)


def test_with_a_stride_4_level(method):
    """AdaFPN leaves it plain, the others take it as one more."""
    module, inputs = neck(method, in_channels=[8, *WIDTHS]).eval(), maps(64, 96, widths=[8, *WIDTHS])
    with torch.no_grad():
        assert [tuple(out.shape) for out in module(inputs)] == [(1, 32, *x.shape[-2:]) for x in inputs]
    if method == 'AdaFPN':
        assert list(module.adapt) == ['1', '2'] and sum(1 for _ in module.top_down_blocks[2].parameters()) > 0


def test_batch_of_two_is_two_batches_of_one(method):
    module, inputs = stirred(neck(method), 0.05).eval(), maps(batch=2)
    with torch.no_grad():
        together = module(inputs)
        alone = [module([x[i : i + 1] for x in inputs]) for i in range(2)]
    for out, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(out, torch.cat(parts), **CLOSE)


def test_after_a_step_every_weight_has_a_gradient(method):
    """Offsets start at zero weights, so the layer before them learns from the second step on."""
    module = neck(method)
    module.init_weights()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    torch.manual_seed(3)
    for _ in range(2):
        optimizer.zero_grad()
        sum((out * torch.randn_like(out)).mean() for out in module(maps(batch=2))).backward()
        optimizer.step()
    without = [key for key, p in module.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert without == []


def quiet(module):
    """MGC with pixels that read nothing."""
    for distribute in module.mgc.distribute:
        torch.nn.init.zeros_(distribute.out.weight)
    return module


@pytest.mark.parametrize(
    'switched_off',
    [
        lambda: neck('SNI', alpha=1.0),
        lambda: neck('FaPN', align_levels=[], select_levels=[], upsample_cfg=dict(mode='nearest')),
        lambda: neck('AdaFPN', adapt_levels=[]),
        lambda: quiet(neck('MGC')),
    ],
    ids=METHODS,
)
def test_switched_off_it_is_the_hybrid_encoder(switched_off):
    """The same maps with the same weights. MGC's encoder states its whole forward: this holds it to the plain one."""
    module, plain = switched_off(), neck()
    missing, unexpected = module.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(key.startswith('mgc.') for key in missing)
    for a, b in zip(module(maps(batch=2)), plain(maps(batch=2)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def seen_by(module, name):
    """What the module of a name gets and returns, in the order of its calls."""
    calls = []
    dict(module.named_modules())[name].register_forward_hook(lambda m, args, out: calls.append((*args, out)))
    return calls


def test_sni_scales_the_upsampled_map():
    module = neck('SNI').eval()
    c4, f5, joined = (seen_by(module, name) for name in ('input_proj.1', 'lateral_convs.0', 'top_down_blocks.0'))
    with torch.no_grad():
        module(maps())
    high, low = F.interpolate(f5[0][-1], scale_factor=2, mode='nearest'), c4[0][-1]
    torch.testing.assert_close(joined[0][0], torch.cat((high / 4, low), dim=1), rtol=0, atol=0)


def test_fapn_selects_before_and_aligns_at_the_fusion():
    module = stirred(neck('FaPN'), 0.05).eval()
    c4, f5 = seen_by(module, 'input_proj.1'), seen_by(module, 'lateral_convs.0')
    aligned, joined = seen_by(module, 'align.1'), seen_by(module, 'top_down_blocks.0')
    with torch.no_grad():
        module(maps())
    low, high, out = aligned[0]
    torch.testing.assert_close(low, c4[0][-1])
    torch.testing.assert_close(high, F.interpolate(f5[0][-1], size=low.shape[-2:], mode='bilinear'))
    torch.testing.assert_close(joined[0][0], torch.cat((out, low), dim=1))
    assert [type(proj).__name__ for proj in module.input_proj] == ['FeatureSelection'] * 2 + ['ConvModule']


def test_adafpn_takes_the_fusions_place():
    """Its sum of both levels is the fused map: no concatenation, no CSP block, and no weight of one."""
    module = neck('AdaFPN').eval()
    f5, fused, after = (seen_by(module, name) for name in ('lateral_convs.0', 'adapt.1', 'lateral_convs.1'))
    with torch.no_grad():
        module(maps())
    torch.testing.assert_close(fused[0][1], f5[0][-1])
    torch.testing.assert_close(after[0][0], fused[0][-1])
    assert not list(module.top_down_blocks.parameters())
    assert list(neck('AdaFPN', adapt_levels=[0]).top_down_blocks[1].parameters()) == []


def test_mgc_adds_the_context_before_aifi():
    module = stirred(neck('MGC'), 0.05).eval()
    projected, seen, inputs = seen_by(module, 'input_proj.2'), seen_by(module, 'aifi'), maps()
    with torch.no_grad():
        module(inputs)
        torch.testing.assert_close(seen[0][0], projected[0][-1] + module.mgc(inputs)[2])


def test_the_encoders_initialisation_spares_the_methods_starts():
    fapn, adafpn, mgc = neck('FaPN'), neck('AdaFPN'), neck('MGC')
    for module in (fapn, adafpn, mgc):
        module.init_weights()
    assert all((align.offset.weight == 0).all() and (align.offset.bias == 0).all() for align in fapn.align.values())
    for block in adafpn.adapt.values():
        torch.testing.assert_close(block.upsample.offset.bias.reshape(4, 2).norm(dim=1), torch.full((4,), 0.5))
    torch.testing.assert_close(
        neck('MGC', contexts=[6, 5, 4]).mgc.orthogonality(), torch.tensor(0.0), atol=1e-8, rtol=0
    )
    assert mgc.mgc.contexts == [256, 192, 128]


@pytest.mark.parametrize(
    'method, options, message',
    [
        ('SNI', dict(alhpa=1), 'SNIHybridEncoder has no option alhpa=1: its options are alpha, in_channels'),
        ('FaPN', dict(align_levels=[2]), r'align_levels=\[2\] names level 2, but this encoder fuses into the levels'),
        ('FaPN', dict(select_levels=[3]), r'select_levels=\[3\] names level 3, but this encoder has the levels \[0, 1'),
        ('FaPN', dict(groups=5), 'groups=5 must be a whole number that divides out_channels=32'),
        ('AdaFPN', dict(adapt_levels=[2]), r'adapt_levels=\[2\] names level 2, but this encoder fuses into the levels'),
        ('AdaFPN', dict(point=2), 'AdaFPNHybridEncoder has no option point=2: its options are adapt_levels, points'),
        ('MGC', dict(contexts=[4, 4]), r'contexts=\[4, 4\] must be one whole number from 1 for each of the 3 levels'),
        ('MGC', dict(context=[4]), r'MGCHybridEncoder has no option context=\[4\]: its options are contexts'),
        ('FaPN', dict(align_level=[1]), r'FaPNHybridEncoder has no option align_level=\[1\]: its options are align_l'),
    ],
)
def test_bad_config_is_one_sentence(method, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        neck(method, **options)
    assert '\n' not in str(caught.value)


def test_maps_of_another_backbone(method):
    with pytest.raises(ValueError, match=r'gives maps with \[16, 24\] channels, but in_channels=\[16, 24, 32\]'):
        neck(method)(maps()[:2])


def test_table_2s_form_of_fapn_stands_here():
    options = {**TABLE_2_FAPN, 'align_levels': [0, 1], 'select_levels': [0, 1, 2]}
    module = neck('FaPN', **{**options, 'select_norm_cfg': dict(type='GN', num_groups=8)})
    assert (
        module.align['0'].conv.groups == 8 and [type(p).__name__ for p in module.input_proj] == ['FeatureSelection'] * 3
    )
    module(maps(batch=2))

"""What all four necks promise, whatever their method is."""

import pytest
import torch
from mmdet.models.necks import FPN

from mmscale.rivals import MGCFPN, AdaFPN, FaPN

from .pyramid import NECKS, TABLE_2_FAPN, WIDTHS, maps, neck, stirred


@pytest.fixture(params=sorted(NECKS))
def name(request):
    return request.param


def test_batch_of_two_is_two_batches_of_one(name):
    module, inputs = stirred(neck(name), 0.05).eval(), maps(batch=2)
    with torch.no_grad():
        together = module(inputs)
        alone = [module([x[i : i + 1] for x in inputs]) for i in range(2)]
    for out, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(out, torch.cat(parts), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [(97, 161), (33, 47), (64, 40)])
def test_any_image_size(name, size):
    inputs = maps(*size)
    with torch.no_grad():
        outs = neck(name).eval()(inputs)
    assert [out.shape[-2:] for out in outs[:4]] == [x.shape[-2:] for x in inputs]
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize(
    'form',
    [
        dict(start_level=1, add_extra_convs='on_output', num_outs=5, relu_before_extra_convs=True),
        dict(start_level=1, add_extra_convs='on_input', num_outs=5),
        dict(start_level=1, end_level=2, num_outs=2),
        dict(num_outs=4),
    ],
    ids=str,
)
def test_forms_of_other_detectors(name, form):
    expected = neck(FPN, **form)(maps())
    outs = neck(name, **form)(maps())
    assert [out.shape for out in outs] == [out.shape for out in expected]


@pytest.mark.parametrize('option', ['SNIFPN alpha', 'FaPN align_levels', 'AdaFPN adapt_levels'])
def test_where_a_method_is_switched_off_it_is_fpn(option):
    """SNI with a weight of one, FaPN and AdaFPN without a level."""
    cls, option = option.split()
    off = {option: 1.0 if option == 'alpha' else []}
    if cls == 'FaPN':
        off['select_levels'] = []
        off['upsample_cfg'] = dict(mode='nearest')
    module, fpn = neck(cls, **off), neck(FPN)
    fpn.load_state_dict(module.state_dict())
    for a, b in zip(module(maps()), fpn(maps()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_after_a_step_every_weight_has_a_gradient(name):
    """Offsets start at zero weights, so the layer before them learns from the second step on."""
    module = neck(name)
    module.init_weights()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    torch.manual_seed(3)
    for _ in range(2):
        optimizer.zero_grad()
        sum((out * torch.randn_like(out)).mean() for out in module(maps(batch=2))).backward()
        optimizer.step()
    without = [key for key, p in module.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert without == []


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision(name, dtype):
    module, inputs = neck(name), maps()
    expected = [out.detach() for out in module(inputs)]
    with torch.autocast('cpu', dtype=dtype):
        outs = module(inputs)
    for out, exact in zip(outs, expected, strict=True):
        assert (out - exact).abs().mean() < 0.03 * exact.abs().mean()
    sum(out.float().mean() for out in outs).backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_the_necks_own_initialisation_spares_the_zero_start():
    fapn, adafpn = neck('FaPN'), neck('AdaFPN')
    fapn.init_weights()
    adafpn.init_weights()
    for align in fapn.align.values():
        assert (align.offset.weight == 0).all() and (align.offset.bias == 0).all()
        assert (align.difference.conv.weight != 0).any()
    for block in adafpn.adapt.values():
        assert (block.upsample.offset.weight == 0).all()
        corners = block.upsample.offset.bias.reshape(4, 2)
        torch.testing.assert_close(corners.norm(dim=1), torch.full((4,), 0.5))
        torch.testing.assert_close(corners.abs(), torch.full((4, 2), 0.5**1.5))


@pytest.mark.parametrize('name', ['SNIFPN', 'AdaFPN', 'MGCFPN'])  # DCNv2 is no ONNX operator
def test_exports_to_onnx(name, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    module, inputs, path = stirred(neck(name), 0.1).eval(), maps(), str(tmp_path / 'neck.onnx')
    with torch.no_grad():
        expected = module(inputs)
    torch.onnx.export(module, (inputs,), path, opset_version=17, dynamo=False)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    feed = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), inputs, strict=True)}
    for a, b in zip(expected, session.run(None, feed), strict=True):
        torch.testing.assert_close(torch.from_numpy(b), a, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    'cls, options, message',
    [
        ('SNIFPN', dict(alhpa=1), 'SNIFPN has no option alhpa=1: its options are alpha, in_channels'),
        ('SNIFPN', dict(upsample_cfg=dict(mode='bilinear')), "mode='bilinear', but soft nearest interpolation needs"),
        ('FaPN', dict(align_levels=[3]), r'align_levels=\[3\] names level 3, but this FPN fuses into the levels'),
        (
            'FaPN',
            dict(select_levels=[4]),
            r'select_levels=\[4\] names level 4, but this FPN has the levels \[0, 1, 2, 3',
        ),
        ('FaPN', dict(deform_groups=5), 'deform_groups=5 must be a whole number that divides out_channels=32'),
        ('FaPN', dict(groups=0), 'groups=0 must be a whole number that divides out_channels=32'),
        ('AdaFPN', dict(adapt_levels=[3]), r'adapt_levels=\[3\] names level 3, but this FPN fuses into the levels'),
        ('AdaFPN', dict(points=0), 'points=0 must be a whole number from 1'),
        ('AdaFPN', dict(reduction=64), 'reduction=64 must be a whole number from 1 to out_channels=32'),
        (
            'MGCFPN',
            dict(contexts=[4, 4]),
            r'contexts=\[4, 4\] must be one whole number from 1 for each of the 4 levels',
        ),
        ('MGCFPN', dict(contexts=[4, 4, 4, 0]), r'contexts=\[4, 4, 4, 0\] must be one whole number from 1'),
        (
            'MGCFPN',
            dict(reasoning='gcn'),
            r"reasoning='gcn' is unknown to MGC: choose one of \('graph', 'pointwise'",
        ),
        ('MGCFPN', dict(read='both'), r"read='both' is unknown to MGC: choose one of \('own', 'all'\)"),
    ],
)
def test_bad_config_is_one_sentence(cls, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        neck(cls, **options)
    assert '\n' not in str(caught.value)


def test_levels_may_repeat_and_stay_one():
    once, twice = neck(FaPN, align_levels=[1], select_levels=[2]), neck(FaPN, align_levels=[1, 1], select_levels=[2, 2])
    assert list(once.state_dict()) == list(twice.state_dict())
    assert list(neck(AdaFPN, adapt_levels=[1, 1]).adapt) == ['1']


def test_defaults():
    assert list(neck(FaPN).align) == ['0', '1', '2'] and list(neck(AdaFPN).adapt) == ['1', '2']
    assert list(neck(AdaFPN, start_level=2, num_outs=3).adapt) == ['2']
    assert neck(MGCFPN).mgc.contexts == [256, 192, 128, 64] and neck(MGCFPN, start_level=1).mgc.contexts == [
        256,
        192,
        128,
    ]
    many = MGCFPN(in_channels=[4] * 6, out_channels=4, num_outs=6)
    assert many.mgc.contexts == [256, 192, 128, 64, 64, 64]
    assert neck(SNIFPN := NECKS['SNIFPN']).alpha == 0.25 and SNIFPN(WIDTHS, 8, 4, alpha=0.5).alpha == 0.5
    assert neck(FaPN, out_channels=64, **{**TABLE_2_FAPN, 'select_norm_cfg': None}).align['1'].conv.groups == 8

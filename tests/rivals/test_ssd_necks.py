"""What the three necks that CFSAM is compared with promise alike, and what they cost on SSD300's six maps."""

import pytest
import torch

from mmscale.analysis.complexity import complexity
from mmscale.rivals import CFAM, MobileViTNeck, SENeck

WIDTHS = [16, 32, 16, 8, 8, 8, 8]
SIZES = [(10, 13), (5, 7), (4, 4), (3, 5), (2, 2), (1, 2), (1, 1)]
SSD300 = (
    26.285486,
    31.373538,
)  # M and G, by tools/analysis/complexity.py configs/cfsam/ssd300_voc0712.py --shape 300 300
SSD_WIDTHS, SSD_SIDES = [512, 1024, 512, 256, 256, 256], [38, 19, 10, 5, 3, 1]
NECKS = {
    'SENeck': (SENeck, dict(reduction=2)),
    'CFAM': (CFAM, dict(out_channels=16, reduction=4)),
    'CFAM, own widths': (CFAM, dict(out_channels=None, reduction=4)),
    'MobileViTNeck': (MobileViTNeck, dict(channels=16, num_layers=1, feedforward_channels=32)),
}


def neck(name, levels=7):
    cls, options = NECKS[name]
    torch.manual_seed(0)
    return cls(WIDTHS[:levels], **options)


def maps(levels=7, batch=2, sizes=SIZES):
    torch.manual_seed(1)
    return [torch.randn(batch, c, *s) for c, s in zip(WIDTHS[:levels], sizes, strict=False)]


@pytest.fixture(params=sorted(NECKS))
def name(request):
    return request.param


@pytest.mark.parametrize('levels', range(1, 8))
@pytest.mark.parametrize('batch', [1, 2])
def test_any_number_of_levels_of_any_size(name, levels, batch):
    inputs = maps(levels, batch)
    outs = neck(name, levels).eval()(inputs)
    assert isinstance(outs, tuple)
    width = {'CFAM': [16] * levels}.get(name, WIDTHS[:levels])
    assert [tuple(x.shape) for x in outs] == [(batch, c, *s) for c, s in zip(width, SIZES[:levels], strict=True)]
    assert all(x.isfinite().all() for x in outs)


def test_inputs_stay_as_they_are(name):
    inputs = maps()
    copies = [x.clone() for x in inputs]
    neck(name)(inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


def test_batch_of_two_is_two_batches_of_one(name):
    module, inputs = neck(name).eval(), maps()
    alone = [module([x[i : i + 1] for x in inputs]) for i in range(2)]
    for out, *parts in zip(module(inputs), *alone, strict=True):
        torch.testing.assert_close(out, torch.cat(parts), rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_gradient(name):
    module = neck(name)
    module.init_weights()
    inputs = [x.requires_grad_() for x in maps()]
    sum((x * torch.randn_like(x)).sum() for x in module(inputs)).backward()
    without = [key for key, p in module.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert without == []
    assert all((x.grad != 0).any() and x.grad.isfinite().all() for x in inputs)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision(name, dtype):
    module, inputs = neck(name, 6), maps(6)
    expected = [x.detach() for x in module.eval()(inputs)]
    with torch.autocast('cpu', dtype=dtype):
        outs = module(inputs)
    for out, exact in zip(outs, expected, strict=True):
        assert (out - exact).abs().mean() < 0.03 * exact.abs().mean()
    sum(x.float().mean() for x in outs).backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize('name', ['SENeck', 'MobileViTNeck'])
def test_levels_left_out_are_passed_on(name):
    module, inputs = NECKS[name][0](WIDTHS[:3], levels=[0, 2], **NECKS[name][1]), maps(3)
    outs = module(inputs)
    assert outs[1] is inputs[1]
    assert not torch.equal(outs[0], inputs[0]) and not torch.equal(outs[2], inputs[2])
    assert len(module.blocks) == 2
    with pytest.raises(ValueError, match=rf'levels=\[3\] of {name} names level 3'):
        NECKS[name][0](WIDTHS[:3], levels=[3])


@pytest.mark.parametrize('name', ['SENeck', 'MobileViTNeck'])
def test_levels_do_not_see_each_other(name):
    module, inputs = neck(name).eval(), maps()
    before = module(inputs)
    changed = [inputs[0] + 1, *inputs[1:]]
    same = [torch.equal(a, b) for a, b in zip(before, module(changed), strict=True)]
    assert same == [False] + [True] * 6


def test_wrong_maps_are_one_sentence(name):
    module, cls = neck(name, 2), NECKS[name][0].__name__
    message = rf'{cls} got maps with \[16\] channels, but in_channels=\[16, 32\]'
    with pytest.raises(ValueError, match=message) as caught:
        module(maps(1))
    assert '\n' not in str(caught.value)
    with pytest.raises(ValueError, match=rf'in_channels=\[\] of {cls} names no map'):
        NECKS[name][0]([])


def test_exports_to_onnx_with_free_sizes(name, tmp_path):
    """Traced at one size, run at another one: whether the patches divide it is decided anew."""
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    module, path = neck(name, 3).eval(), str(tmp_path / 'neck.onnx')
    axes = {f'x{i}': {0: 'batch', 2: f'h{i}', 3: f'w{i}'} for i in range(3)}
    torch.onnx.export(
        module,
        (maps(3, batch=1, sizes=[(8, 6), (4, 4), (1, 1)]),),
        path,
        input_names=list(axes),
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for sizes in ([(8, 6), (4, 4), (1, 1)], [(7, 9), (5, 2), (3, 1)]):
        inputs = maps(3, batch=2, sizes=sizes)
        outs = session.run(None, {key: x.numpy() for key, x in zip(axes, inputs, strict=True)})
        for a, b in zip(module(inputs), outs, strict=True):
            torch.testing.assert_close(torch.from_numpy(b), a, rtol=1e-4, atol=1e-5)


def cost(cls, **options):
    """Parameters and multiply-adds on SSD300's maps; nothing is computed."""
    with torch.device('meta'):
        module = cls(SSD_WIDTHS, **options)
        inputs = [torch.empty(1, c, s, s) for c, s in zip(SSD_WIDTHS, SSD_SIDES, strict=True)]
        counted = complexity(module, inputs=(inputs,))
    assert counted.unknown == {}
    return counted


def pixels():
    return [s * s for s in SSD_SIDES]


def test_cost_of_se():
    """Table 4: 26.51 M and 31.38 G. Its second figure counts the means and the products, 1.17 M each, too."""
    counted = cost(SENeck)
    assert counted.params == counted.macs == sum(2 * c * c // 16 for c in SSD_WIDTHS) == 221_184
    assert round(SSD300[0] + counted.params / 1e6, 2) == 26.51
    values = sum(c * n for c, n in zip(SSD_WIDTHS, pixels(), strict=True))
    assert round(SSD300[1] + (counted.macs + 2 * values) / 1e9, 2) == 31.38


def test_cost_of_cfam():
    """Table 4: 25.69 M and 30.93 G, the smaller head included."""
    counted = cost(CFAM)
    excitation = 2 * 1536 * 96
    assert counted.params == sum(c * 256 + 256 for c in SSD_WIDTHS) + excitation
    assert counted.macs == sum(c * 256 * n for c, n in zip(SSD_WIDTHS, pixels(), strict=True)) + excitation
    outputs = [9 * anchors * (4 + 21) for anchors in (4, 6, 6, 6, 4, 4)]  # a convolution for boxes, one for classes
    fewer = [(c - 256) * k for c, k in zip(SSD_WIDTHS, outputs, strict=True)]
    assert round(SSD300[0] + (counted.params - sum(fewer)) / 1e6, 2) == 25.69
    saved = sum(k * n for k, n in zip(fewer, pixels(), strict=True))
    assert round(SSD300[1] + (counted.macs - saved) / 1e9, 2) == 30.93


@pytest.mark.parametrize(
    'd, feedforward, params, gmacs',
    [(144, 288, 0.0025, 0.0035), (128, 384, 0.0006, 0.0025)],
    ids=['MobileViT-S', 'd=128'],
)
def test_cost_of_mobilevit(d, feedforward, params, gmacs):
    """Table 4: 76.75 M and 53.74 G."""
    counted = cost(MobileViTNeck, channels=d, feedforward_channels=feedforward)
    layer = 3 * d * d + 3 * d + d * d + d + 2 * d * feedforward + feedforward + d + 4 * d
    convs = [27 * c * c + 2 * c * d for c in SSD_WIDTHS]
    norms = [3 * 2 * c for c in SSD_WIDTHS]
    assert counted.params == sum(convs) + sum(norms) + 6 * (2 * layer + 2 * d)
    macs = sum(c * n for c, n in zip(convs, pixels(), strict=True))
    for side in (38, 20, 10, 6, 4, 2):  # four sequences of side^2 / 4 tokens
        tokens = side * side
        macs += 2 * (tokens * (4 * d * d + 2 * d * feedforward) + 2 * tokens * (tokens // 4) * d)
    small = sum(counted.by_kind[kind]['macs'] for kind in ('normalisation', 'interpolation'))
    assert counted.macs - small == macs and small < 0.001 * macs
    assert SSD300[0] + counted.params / 1e6 == pytest.approx(76.75, rel=params)
    assert SSD300[1] + counted.macs / 1e9 == pytest.approx(53.74, rel=gmacs)

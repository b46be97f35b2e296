import re

import pytest
import torch
import torch.nn.functional as F

from mmscale.fine import FINEHybridEncoder
from mmscale.layers import reparameterize
from mmscale.rtdetr import HybridEncoder

WIDTHS, STRIDES = [16, 24, 32], [8, 16, 32]
CLOSE = 2e-4  # of maps whose values reach 80
SMALL = dict(out_channels=32, num_blocks=1, aifi=dict(num_heads=2, feedforward_channels=32))


def maps(height=96, width=128, batch=1, widths=WIDTHS, strides=STRIDES):
    torch.manual_seed(0)
    return tuple(torch.randn(batch, c, -(-height // s), -(-width // s)) for c, s in zip(widths, strides, strict=True))


def neck(cls=FINEHybridEncoder, widths=WIDTHS, **options):
    torch.manual_seed(1)
    return cls(widths, **SMALL, **options)


def silenced(module):
    """With FINE's maps at zero."""
    for fine in module.fine.values():
        for linear in fine.attention.out:
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
    return module


@pytest.mark.parametrize('training', [True, False])
def test_without_modulation_it_is_the_hybrid_encoder(training):
    """A plain encoder's weights load, only FINE's own missing; with FINE's maps at zero the outputs are equal."""
    plain, ours = neck(HybridEncoder).train(training), silenced(neck()).train(training)
    missing, unexpected = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and missing and all(key.startswith('fine.') for key in missing)
    for a, b in zip(ours(maps(batch=2)), plain(maps(batch=2)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_direct_modulation_at_zero_leaves_nothing_of_the_low_levels():
    """So the law above is the residual form's."""
    ours = silenced(neck(fine=dict(modulation='direct'))).eval()
    low = [torch.randn_like(x) for x in maps()]
    with torch.no_grad():
        a, b = ours(maps()), ours((*low[:2], maps()[2]))
    assert torch.equal(a[0], b[0])


def test_it_is_the_encoder_written_out():
    """Where FINE stands and what it sees: the projected low map, and the high map that is upsampled."""
    module, inputs = neck().eval(), maps()
    with torch.no_grad():
        c3, c4, c5 = (conv(x) for conv, x in zip(module.input_proj, inputs, strict=True))
        f5 = module.lateral_convs[0](module.aifi(c5))
        c4 = module.fine['1'](c4, f5)
        f4 = module.top_down_blocks[0](torch.cat((F.interpolate(f5, size=c4.shape[-2:]), c4), dim=1))
        f4 = module.lateral_convs[1](f4)
        c3 = module.fine['0'](c3, f4)
        n3 = module.top_down_blocks[1](torch.cat((F.interpolate(f4, size=c3.shape[-2:]), c3), dim=1))
        n4 = module.bottom_up_blocks[0](torch.cat((module.downsample_convs[0](n3), f4), dim=1))
        n5 = module.bottom_up_blocks[1](torch.cat((module.downsample_convs[1](n4), f5), dim=1))
        for a, b in zip(module(inputs), (n3, n4, n5), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    'widths, options, kernels',
    [
        (WIDTHS, dict(), {'0': 2, '1': 1}),
        ([8, *WIDTHS], dict(), {'1': 2, '2': 1}),  # a stride-4 level is fused plainly
        ([8, *WIDTHS], dict(fine_levels=[0, 1, 2]), {'0': 4, '1': 2, '2': 1}),
        (WIDTHS, dict(fine_levels=[0], fine_kernels=[4]), {'0': 4}),
        (WIDTHS, dict(fine_levels=[]), {}),
        (WIDTHS[:2], dict(), {'0': 1}),
    ],
)
def test_where_fine_stands_and_its_kernels(widths, options, kernels):
    module = neck(widths=widths, **options).eval()
    assert {level: fine.high_kernel for level, fine in module.fine.items()} == kernels
    inputs = maps(64, 96, widths=widths, strides=[32 >> i for i in reversed(range(len(widths)))])
    with torch.no_grad():
        assert [tuple(out.shape) for out in module(inputs)] == [(1, 32, *x.shape[-2:]) for x in inputs]


@pytest.mark.parametrize('size', [(97, 161), (320, 200), (65, 64)])
def test_any_image_size(size):
    inputs = maps(*size)
    with torch.no_grad():
        outs = neck().eval()(inputs)
    assert [out.shape[-2:] for out in outs] == [x.shape[-2:] for x in inputs]
    assert all(out.isfinite().all() for out in outs)


def test_batch_of_two_is_two_batches_of_one():
    module, inputs = neck().eval(), maps(batch=2)
    with torch.no_grad():
        together = module(inputs)
        alone = [module([x[i : i + 1] for x in inputs]) for i in range(2)]
    for out, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(out, torch.cat(parts), rtol=1e-4, atol=CLOSE)


def test_every_weight_has_a_gradient():
    """But a bias on the keys, which the softmax takes out again."""
    module = neck()
    sum((out * torch.randn_like(out)).sum() for out in module(maps(batch=2))).backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert all(re.search(r'key\.\d\.bias$', name) for name in without), without


def test_weights_start_as_documented_whatever_the_encoder_does():
    """FINE's parts keep their start after the encoder has drawn its own anew."""
    module = neck(fine=dict(down='dwconv'))
    module.init_weights()
    bound = (6 / (32 + 32)) ** 0.5  # Xavier
    for fine in module.fine.values():
        for name, parameter in fine.attention.named_parameters():
            assert (parameter == 0).all() if name.endswith('bias') else 0.9 * bound < parameter.abs().max() <= bound
        assert all((p == p.flatten()[0]).all() for p in fine.down_low.parameters())
    assert module.lateral_convs[0].conv.weight.abs().max() <= 32**-0.5  # PyTorch's own: a bound, no normal's tail


def test_it_folds_for_inference():
    module, inputs = neck().eval(), maps()
    with torch.no_grad():
        for a, b in zip(reparameterize(module)(inputs), module(inputs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=CLOSE)


def test_exports_to_onnx(tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    module, inputs, path = neck().eval(), maps(), str(tmp_path / 'neck.onnx')
    with torch.no_grad():
        expected = module(inputs)
    torch.onnx.export(module, (inputs,), path, input_names=['C3', 'C4', 'C5'], opset_version=17, dynamo=False)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    exported = session.run(None, {f'C{i + 3}': x.numpy() for i, x in enumerate(inputs)})
    for a, b in zip(expected, exported, strict=True):
        torch.testing.assert_close(torch.from_numpy(b), a, rtol=1e-4, atol=CLOSE)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(fine_levels=[2]), r'fine_levels=\[2\] names level 2, but this encoder fuses into the levels \[0, 1\]'),
        (dict(fine_kernels=[1]), r'fine_kernels=\[1\] must name one kernel for each of the distinct fine_levels=\[0'),
        (dict(fine=dict(kernel=2)), 'fine.kernel=2 is set per level: use fine_kernels'),
        (dict(fine=dict(channels=64)), 'fine.channels=64 does not match out_channels=32'),
        (dict(fine=dict(heads=4)), 'fine has no option heads=4: its options are ratio, num_heads, down'),
        (
            dict(fine_kernel=[1]),
            r'FINEHybridEncoder has no option fine_kernel=\[1\]: its options are fine, fine_levels, fine_kernels, in_c',
        ),
    ],
)
def test_bad_config_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        neck(**options)
    assert '\n' not in str(caught.value)


def test_maps_of_another_backbone():
    with pytest.raises(ValueError, match=r'gives maps with \[16, 24\] channels, but in_channels=\[16, 24, 32\]'):
        neck()(maps()[:2])

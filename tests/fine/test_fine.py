import copy

import pytest
import torch

from mmscale.fine import FINE
from mmscale.fine.fine import MODULATIONS

from . import literal


def levels(low=(12, 10), high=(6, 5), channels=32, batch=2):
    torch.manual_seed(0)
    return torch.randn(batch, channels, *low), torch.randn(batch, channels, *high)


@pytest.mark.parametrize('low, high, kernel', [((8, 8), (4, 4), 1), ((8, 8), (4, 4), 2), ((7, 9), (4, 5), 2)])
def test_equals_the_literal_form_in_values_and_gradients(low, high, kernel):
    fast = FINE(16, kernel=kernel, num_heads=2)
    slow = copy.deepcopy(fast)
    results = []
    for module, forward in ((fast, fast), (slow, lambda *x: literal.fine(slow, *x))):
        inputs = [x.requires_grad_() for x in levels(low, high, channels=16, batch=1)]
        out = forward(*inputs)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        results.append([out, *(x.grad for x in inputs), *(p.grad for p in module.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_zero_map_is_the_identity():
    module = FINE(32)
    for linear in module.attention.out:
        torch.nn.init.zeros_(linear.weight)
    low, high = levels()
    torch.testing.assert_close(module(low, high), low, rtol=0, atol=0)


def test_modulations_of_figure_7():
    low, high = levels()
    modules = {name: FINE(32, modulation=name) for name in ('residual', 'direct', 'none')}
    for module in modules.values():
        module.load_state_dict(modules['residual'].state_dict())
    out = {name: module(low, high) for name, module in modules.items()}
    torch.testing.assert_close(out['direct'], low * out['none'])
    torch.testing.assert_close(out['residual'], out['direct'] + low)


def test_modulation_is_constant_within_a_sampled_region():
    module = FINE(32, kernel=2)
    low, high = levels((8, 8), (4, 4))
    modulation = module.modulation_map(low, high)
    for i in (0, 4):
        for j in (0, 4):
            region = modulation[..., i : i + 4, j : j + 4]
            torch.testing.assert_close(region, region[..., :1, :1].expand_as(region))
    assert not torch.allclose(modulation[..., 0, 0], modulation[..., 4, 4])


@pytest.mark.parametrize('low, high', [((50, 84), (25, 42)), ((51, 83), (26, 42)), ((3, 5), (2, 3))])
def test_batch_of_two_is_two_batches_of_one(low, high):
    module = FINE(32)
    low, high = levels(low, high)
    single = torch.cat([module(low[i : i + 1], high[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(module(low, high), single)


@pytest.mark.parametrize(
    'options', [dict(), dict(down='dwconv'), dict(attention=dict(type='mmscale.LinearCrossLevelAttention'))]
)
def test_bfloat16_autocast_stays_close(options):
    module = FINE(32, **options)
    low, high = levels()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = module(low, high)
    torch.testing.assert_close(mixed.float(), module(low, high), rtol=0.05, atol=0.05)


def test_compiles_without_a_graph_break():
    module = FINE(16, kernel=2).eval()
    compiled = torch.compile(module, fullgraph=True, backend='aot_eager')
    for low, high in (levels((8, 8), (4, 4), 16), levels((9, 7), (5, 4), 16)):
        torch.testing.assert_close(compiled(low, high), module(low, high))


@pytest.mark.parametrize('size', [((16, 12), (8, 6)), ((15, 11), (8, 6))])
def test_exports_to_onnx(size, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    module = FINE(16, kernel=2).eval()
    low, high = levels(*size, channels=16, batch=1)
    path = str(tmp_path / 'fine.onnx')
    torch.onnx.export(module, (low, high), path, input_names=['low', 'high'], opset_version=17, dynamo=False)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (out,) = session.run(None, {'low': low.numpy(), 'high': high.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), module(low, high).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(kernel=0), 'kernel=0 of FINE must be a whole number from 1'),
        (dict(ratio=1.5), r'ratio=1.5 of FINE must be a whole number from 1'),
        (
            dict(modulation='add'),
            r"modulation='add' is unknown to FINE: choose one of \['direct', 'none', 'residual'\]",
        ),
        (dict(num_heads=5), 'num_heads=5 does not divide channels=32'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FINE(**{'channels': 32, **options})


def test_kernel_larger_than_the_map():
    with pytest.raises(ValueError, match="sampling kernel 8 of FINE's low level is larger than the map of 6x6"):
        FINE(32, kernel=4)(*levels((6, 6), (3, 3)))


def test_width_that_does_not_match():
    low, _ = levels()
    with pytest.raises(ValueError, match='FINE was built for channels=32, but the high level has 64'):
        FINE(32)(low, torch.rand(2, 64, 6, 5))


@pytest.mark.parametrize('modulation', ['residual', 'direct', 'none'])
@pytest.mark.parametrize('kernel, ratio', [(1, 1), (1, 2), (2, 2), (1, 3)])
def test_whole_regions_are_modulated_without_writing_the_map_down(modulation, kernel, ratio):
    """Where regions are whole M stays coarse; the result, and the gradients, are those with M as a map."""
    results = []
    for whole in (True, False):
        torch.manual_seed(0)
        module = FINE(32, kernel=kernel, ratio=ratio, modulation=modulation)
        low, high = torch.randn(2, 32, 12, 24, requires_grad=True), torch.randn(2, 32, 6, 12, requires_grad=True)
        out = module(low, high) if whole else MODULATIONS[modulation](low, module.modulation_map(low, high))
        assert out.is_contiguous() and out.shape == low.shape
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        results.append([out, high.grad, low.grad])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)

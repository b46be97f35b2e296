"""Multiply-adds by hand, operator by operator."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmscale.analysis import OpCounter


def count(function, *args, **kwargs) -> OpCounter:
    with torch.no_grad(), OpCounter() as counter:
        function(*args, **kwargs)
    return counter


@pytest.mark.parametrize(('layer', 'shape', 'kind', 'macs'), [
    # 8x8 outputs, each of 16 channels from 3 x 3 x 3 inputs
    (nn.Conv2d(3, 16, 3, padding=1), (1, 3, 8, 8), 'convolution', 8 * 8 * 16 * 27),
    (nn.Conv2d(3, 16, 3, padding=1), (2, 3, 8, 8), 'convolution', 2 * 8 * 8 * 16 * 27),
    (nn.Conv2d(3, 16, 3, stride=2, padding=1), (1, 3, 9, 9), 'convolution', 5 * 5 * 16 * 27),
    (nn.Conv2d(16, 16, 3, padding=1, groups=16), (1, 16, 8, 8), 'convolution', 8 * 8 * 16 * 9),
    (nn.Conv2d(16, 8, 1, groups=4), (1, 16, 8, 8), 'convolution', 8 * 8 * 8 * 4),
    (nn.Conv2d(4, 4, 3, dilation=2), (1, 4, 8, 8), 'convolution', 4 * 4 * 4 * 4 * 9),
    # every input value meets every weight of its channel: 8 x 8 x 6 x 4 x 2 x 2
    (nn.ConvTranspose2d(6, 4, 2, stride=2), (1, 6, 8, 8), 'convolution', 8 * 8 * 6 * 4 * 4),
    (nn.Linear(32, 10), (5, 32), 'matrix product', 5 * 32 * 10),
    (nn.Linear(32, 10, bias=False), (2, 7, 32), 'matrix product', 2 * 7 * 32 * 10),
    (nn.BatchNorm2d(4).eval(), (1, 4, 5, 5), 'normalisation', 2 * 100),
    (nn.BatchNorm2d(4, affine=False).eval(), (1, 4, 5, 5), 'normalisation', 100),
    (nn.GroupNorm(2, 4), (1, 4, 5, 5), 'normalisation', 5 * 100),
    (nn.LayerNorm(4), (25, 4), 'normalisation', 5 * 100),
    (nn.Upsample(scale_factor=2), (1, 4, 5, 5), 'interpolation', 400),
    (nn.Upsample(scale_factor=2, mode='bilinear'), (1, 4, 5, 5), 'interpolation', 4 * 400),
])
def test_layers(layer, shape, kind, macs):
    counter = count(layer, torch.rand(shape))
    assert dict(counter.macs) == {kind: macs}
    assert not counter.unknown


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('inference_mode', [False, True])
def test_attention(masked, inference_mode):
    """4 heads, 10 queries, 20 keys, width 16, values 16 wide: both products."""
    query, key = torch.rand(2, 4, 10, 16), torch.rand(2, 4, 20, 16)
    mask = torch.zeros(10, 20) if masked else None
    with torch.inference_mode(inference_mode):
        counter = count(F.scaled_dot_product_attention, query, key, key, attn_mask=mask)
    assert counter.total == 2 * 4 * 10 * 20 * (16 + 16)


def test_attention_with_gradients_is_counted_too():
    query = torch.rand(1, 2, 6, 8, requires_grad=True)
    with OpCounter() as counter:
        F.scaled_dot_product_attention(query, query, query)
    assert counter.total == 2 * 6 * 6 * 16


def test_multihead_attention_has_no_hidden_fast_path():
    layer = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    tokens = torch.rand(1, 7, 32)
    counter = count(layer, tokens, tokens, tokens)
    assert counter.total == 4 * 7 * 32 * 32 + 2 * 7 * 7 * 32
    assert torch.backends.mha.get_fastpath_enabled()


def test_products_however_they_are_written():
    left, right = torch.rand(3, 4, 5), torch.rand(3, 5, 6)
    product = 3 * 4 * 5 * 6
    assert count(torch.matmul, left, right).total == product
    assert count(torch.einsum, 'bij,bjk->bik', left, right).total == product
    assert count(torch.baddbmm, torch.rand(3, 4, 6), left, right).total == product
    assert count(torch.rand(4, 6).addmm_, left[0], right[0]).total == 4 * 5 * 6
    assert count(torch.mv, left[0], torch.rand(5)).total == 4 * 5


def test_elementwise_work_is_free():
    x = torch.rand(2, 3, 8, 8)
    counter = count(lambda: F.max_pool2d(x.clone().relu_().softmax(1) * x + x.mean(), 2).flatten(1).sort().values.sum())
    assert counter.total == 0
    assert not counter.unknown


def test_grid_sample_reads_four_corners():
    counter = count(F.grid_sample, torch.rand(1, 3, 8, 8), torch.rand(1, 4, 5, 2), align_corners=False)
    assert dict(counter.macs) == {'sampling': 4 * 3 * 4 * 5}


def test_unknown_operators_are_listed_with_their_calls():
    def work():
        torch.fft.fft2(torch.rand(8, 8))
        torch.fft.fft2(torch.rand(8, 8))
        torch.cdist(torch.rand(3, 4), torch.rand(5, 4))

    assert dict(count(work).unknown) == {'aten._fft_c2c': 2, 'aten._cdist_forward': 1}


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.numpy() @ x.numpy())  # a product that PyTorch never sees


bound_early = Hidden.apply


def test_compiled_functions_are_listed_even_if_bound_before():
    original = vars(Hidden)['forward']
    counter = count(bound_early, torch.rand(4, 4))
    assert dict(counter.unknown) == {'Hidden': 1}
    assert vars(Hidden)['forward'] is original


def test_roi_align_is_listed():
    from mmcv.ops import RoIAlign
    counter = count(RoIAlign(2), torch.rand(1, 3, 8, 8), torch.tensor([[0., 0., 0., 4., 4.]]))
    assert dict(counter.unknown) == {'RoIAlignFunction': 1}


@pytest.mark.parametrize('modulated', [False, True])
def test_deformable_convolution(modulated):
    """As a convolution, plus four multiply-adds for each value that the kernel reads; its own GEMM counts once."""
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
    layer = (ModulatedDeformConv2dPack if modulated else DeformConv2dPack)(8, 16, 3, padding=1)
    counter = count(layer, torch.rand(1, 8, 6, 6))
    offsets = 27 if modulated else 18
    assert counter.macs['convolution'] == 36 * (16 * 8 * 9 + offsets * 8 * 9)
    assert counter.macs['sampling'] == 4 * 36 * 8 * 9
    assert 'matrix product' not in counter.macs
    assert not counter.unknown


def test_deformable_attention_in_both_forms():
    """2 heads of width 4, 3 queries, 2 levels, 5 points: 120 vectors of 4... each value four corners."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    from mmscale.analysis.op_costs import FUNCTIONS
    shapes = torch.tensor([[4, 4], [2, 2]])
    value, locations = torch.rand(1, 20, 2, 4), torch.rand(1, 3, 2, 2, 5, 2)
    weights = torch.rand(1, 3, 2, 2, 5)
    counter = count(multi_scale_deformable_attn_pytorch, value, shapes, locations, weights)
    expected = 4 * (3 * 2 * 2 * 5) * 4
    assert counter.macs['sampling'] == expected
    compiled = FUNCTIONS['MultiScaleDeformableAttnFunction']((None, value, shapes, None, locations, weights), {}, None)
    assert compiled == {'sampling': expected}


def test_modules_are_credited_even_past_their_call():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.conv(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.neck, self.head = nn.Conv2d(4, 4, 3, padding=1), Head()

        def forward(self, x):
            return self.head.forward(self.neck(x))  # as MMDetection calls its heads

    counter = count(Net(), torch.rand(1, 4, 2, 2))
    assert counter.by_module['Net.neck'] == 4 * 16 * 9
    assert counter.by_module['Net.head'] == 4 * 16
    assert counter.by_module['Net'] == counter.by_module['Global'] == counter.total


def test_nothing_is_counted_outside():
    layer = nn.Linear(2, 2)
    with OpCounter() as counter:
        pass
    layer(torch.rand(1, 2))
    assert counter.total == 0

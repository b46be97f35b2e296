import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from mmscale.compat import import_mmyolo
from mmscale.layers import RepVGGBlock, fold_norm, reparameterize
from mmscale.registry import HAS_MMYOLO
from mmscale.rtdetr.hybrid_encoder import HybridEncoder


def stirred(module: nn.Module) -> nn.Module:
    """Norms with statistics and weights of their own, that folding has something to fold."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
    return module.eval()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize('groups', [1, 2])
def test_a_folded_norm_is_the_convolution_and_its_norm(groups):
    block = stirred(ConvModule(4, 6, 3, padding=1, groups=groups, bias=True, norm_cfg=dict(type='BN'), act_cfg=None))
    kernel, bias = fold_norm(block.conv, block.norm)
    x = torch.randn(2, 4, 7, 5)
    folded = nn.functional.conv2d(x, kernel, bias, padding=1, groups=groups)
    torch.testing.assert_close(folded, block(x), atol=1e-5, rtol=1e-5)
    assert not kernel.requires_grad


def test_only_a_batch_norm_can_be_folded():
    with pytest.raises(TypeError, match='a GroupNorm cannot be folded into a convolution: only batch norms can'):
        reparameterize(RepVGGBlock(4, norm_cfg=dict(type='GN', num_groups=2)))


def test_a_rep_vgg_block_adds_its_branches():
    block = stirred(RepVGGBlock(4))
    x = torch.randn(2, 4, 6, 7)
    total = block.conv3x3.bn(block.conv3x3.conv(x)) + block.conv1x1.bn(block.conv1x1.conv(x))
    torch.testing.assert_close(block(x), total * total.sigmoid())


def test_a_rep_vgg_block_becomes_one_convolution():
    block = stirred(RepVGGBlock(6))
    folded = reparameterize(block)
    x = torch.randn(2, 6, 9, 8)
    torch.testing.assert_close(folded(x), block(x), atol=1e-5, rtol=1e-5)
    assert [type(m) for m in folded.modules() if not list(m.children())] == [nn.Conv2d, nn.SiLU]


def test_the_model_stays_as_it_is():
    block = stirred(RepVGGBlock(4)).train()
    before = copy.deepcopy(block.state_dict())
    reparameterize(block)
    assert block.training
    assert before.keys() == block.state_dict().keys()
    assert all(before[key].equal(value) for key, value in block.state_dict().items())


def test_an_encoder_folds_and_folds_twice():
    neck = stirred(HybridEncoder([4, 8, 16], 16, expansion=0.5, aifi=dict(num_heads=2, feedforward_channels=16)))
    neck = neck.double()  # a dozen layers deep, single precision would round more than 1e-5
    maps = [torch.randn(2, c, h, w).double() for c, h, w in [(4, 16, 18), (8, 8, 9), (16, 4, 5)]]
    once = reparameterize(neck)
    twice = reparameterize(once)
    assert any(isinstance(m, RepVGGBlock) for m in neck.modules())
    assert not any(isinstance(m, RepVGGBlock) for m in once.modules())
    assert sum(p.numel() for p in once.parameters()) < sum(p.numel() for p in neck.parameters())
    with torch.no_grad():
        for trained, folded, again in zip(neck(maps), once(maps), twice(maps), strict=True):
            torch.testing.assert_close(folded, trained, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(again, folded)


@pytest.mark.skipif(not HAS_MMYOLO, reason='mmyolo is not installed')
def test_blocks_that_switch_themselves_are_folded():
    import_mmyolo()
    from mmyolo.models import layers

    torch.manual_seed(0)
    model = stirred(nn.Sequential(layers.RepVGGBlock(8, 8), nn.ReLU(), layers.RepVGGBlock(8, 16, stride=2)))
    x = torch.rand(2, 8, 9, 7)
    folded = reparameterize(model)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)
    assert sum(isinstance(layer, nn.Conv2d) for layer in folded.modules()) == 2
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.modules()) == 4  # the model stays as it was

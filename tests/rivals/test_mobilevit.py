import pytest
import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from torch import nn

from mmscale.rivals import MobileViTNeck
from mmscale.rivals.mobilevit import MobileViTBlock, fold, unfold

SMALL = dict(channels=16, num_layers=2, num_heads=4, feedforward_channels=32)
SIZES = [(6, 8), (5, 7), (3, 3), (2, 1), (1, 1)]  # the first is made of whole patches


def block(in_channels=8, **options):
    """With running statistics and biases that are none of their initial zeros and ones."""
    torch.manual_seed(0)
    module = MobileViTBlock(in_channels, **{**SMALL, **options})
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if name.endswith('bias') or tensor.dim() == 1:
                tensor.add_(0.3 * torch.randn_like(tensor))
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return module


def huggingface(module, in_channels=8):
    """transformers' block with our weights."""
    transformers = pytest.importorskip('transformers')
    from transformers.models.mobilevit.modeling_mobilevit import MobileViTLayer

    config = transformers.MobileViTConfig(num_attention_heads=4, mlp_ratio=2.0, hidden_dropout_prob=0.0)
    theirs = MobileViTLayer(config, in_channels, in_channels, stride=1, hidden_size=16, num_stages=2)
    for ours, conv in (
        (module.local[0], theirs.conv_kxk),
        (module.project, theirs.conv_projection),
        (module.fusion, theirs.fusion),
    ):
        conv.convolution.load_state_dict(ours.conv.state_dict())
        conv.normalization.load_state_dict(ours.norm.state_dict())
    theirs.conv_1x1.convolution.load_state_dict(module.local[1].state_dict())
    for ours, layer in zip(module.transformer, theirs.transformer.layer, strict=False):
        layer.layernorm_before.load_state_dict(ours.norm1.state_dict())
        layer.layernorm_after.load_state_dict(ours.norm2.state_dict())
        attention = layer.attention.attention
        for i, part in enumerate((attention.query, attention.key, attention.value)):
            part.weight.data = ours.attention.qkv.weight.data.chunk(3)[i].clone()
            part.bias.data = ours.attention.qkv.bias.data.chunk(3)[i].clone()
        layer.attention.output.dense.load_state_dict(ours.attention.proj.state_dict())
        layer.intermediate.dense.load_state_dict(ours.feedforward[0].state_dict())
        layer.output.dense.load_state_dict(ours.feedforward[3].state_dict())
    theirs.layernorm.load_state_dict(module.transformer[-1].state_dict())
    return theirs


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('training', [True, False])
def test_values_and_gradients_are_those_of_transformers(size, training):
    ours = block().train(training)
    theirs = huggingface(ours).train(training)
    x, weight = torch.randn(2, 8, *size), torch.randn(2, 8, *size)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outs = [module(i) for module, i in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)
    for out in outs:
        (out * weight).sum().backward()
    # two 1x1 maps: the batch norms divide by a difference of two values, and gradients grow with it
    close = dict(rtol=1e-4, atol=1e-5 * max(1, inputs[1].grad.abs().max().item()))
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, **close)
    gradient = theirs.transformer.layer[0].attention.attention.query.weight.grad
    torch.testing.assert_close(ours.transformer[0].attention.qkv.weight.grad[:16], gradient, **close)
    torch.testing.assert_close(ours.local[0].conv.weight.grad, theirs.conv_kxk.convolution.weight.grad, **close)


def attend(layer, tokens):
    """A Transformer layer on one sequence ``(n, d)``, head by head and token by token."""
    normed, heads = layer.norm1(tokens), layer.attention.num_heads
    query, key, value = layer.attention.qkv(normed).chunk(3, dim=1)
    width = query.shape[1] // heads
    attended = torch.zeros_like(tokens)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        for i in range(len(tokens)):
            scores = torch.stack([query[i, part] @ k / width**0.5 for k in key[:, part]]).softmax(0)
            attended[i, part] = sum(s * v for s, v in zip(scores, value[:, part], strict=True))
    tokens = tokens + layer.attention.proj(attended)
    return tokens + layer.feedforward(layer.norm2(tokens))


@pytest.mark.parametrize('size', [(4, 6), (3, 5)], ids=str)
def test_position_by_position(size):
    """Sequences picked pixel by pixel, for each position of a patch and each image."""
    module = block().eval()
    x = torch.randn(2, 8, *size)
    height, width = (side + side % 2 for side in size)
    tokens = F.interpolate(module.local(x), size=(height, width), mode='bilinear')
    folded = torch.empty_like(tokens)
    for image in range(2):
        for i in range(2):
            for j in range(2):
                places = [(r, c) for r in range(i, height, 2) for c in range(j, width, 2)]
                sequence = torch.stack([tokens[image, :, r, c] for r, c in places])
                for layer in module.transformer[:-1]:
                    sequence = attend(layer, sequence)
                for (r, c), token in zip(places, module.transformer[-1](sequence), strict=True):
                    folded[image, :, r, c] = token
    folded = F.interpolate(folded, size=size, mode='bilinear')
    expected = module.fusion(torch.cat((x, module.project(folded)), dim=1))
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('patch_size, size', [(1, (3, 5)), (2, (4, 6)), (3, (3, 9))])
def test_fold_inverts_unfold(patch_size, size):
    x = torch.randn(2, 4, *size)
    sequences = unfold(x, patch_size)
    patches = size[0] * size[1] // patch_size**2
    assert sequences.shape == (2 * patch_size**2, patches, 4)
    assert torch.equal(fold(sequences, patch_size, size), x)


def test_a_pixel_meets_its_own_position_alone():
    """Without the convolutions around, a token changes those at the same place of other patches and no other."""
    module = block().eval()
    x = torch.randn(1, 16, 4, 4)
    changed = x.clone()
    changed[0, :, 1, 2] += torch.randn(16)
    differs = (module._global(x) != module._global(changed)).any(dim=1)[0]
    assert differs.nonzero().tolist() == [[1, 0], [1, 2], [3, 0], [3, 2]]


def test_batch_norm_needs_two_values_per_channel():
    neck = MobileViTNeck([8, 8], **SMALL)
    maps = [torch.randn(1, 8, 3, 3), torch.randn(1, 8, 1, 1)]
    message = r'a map of shape \(1, 8, 1, 1\) gives the batch norms of MobileViT one value per channel: train with 2'
    with pytest.raises(ValueError, match=message) as caught:
        neck(maps)
    assert '\n' not in str(caught.value)
    assert [x.shape for x in neck.eval()(maps)] == [x.shape for x in maps]
    neck.train()
    for norm in neck.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()  # frozen: uses what it has
    assert all(x.isfinite().all() for x in neck(maps))


@pytest.mark.parametrize('norm_cfg', [None, dict(type='GN', num_groups=2)], ids=str)
def test_other_norms_take_one_image(norm_cfg):
    neck = MobileViTNeck([8], norm_cfg=norm_cfg, **SMALL)
    neck([torch.randn(1, 8, 1, 1)])[0].sum().backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())
    assert (neck.blocks[0].fusion.conv.bias is not None) == (norm_cfg is None)


def test_two_images_leave_the_sign_of_a_1x1_map():
    """What the docstring says of batch norms: any two different values become 1 and -1."""
    norm = block().train().local[0].norm
    norm.reset_parameters()
    out = norm(torch.tensor([[3.0] * 8, [5.0] * 8])[:, :, None, None]).flatten(1)
    torch.testing.assert_close(out, torch.tensor([[-1.0] * 8, [1.0] * 8]), rtol=1e-4, atol=1e-4)


def test_synchronised_norms_build():
    neck = MobileViTNeck([8], norm_cfg=dict(type='SyncBN'), **SMALL)
    assert isinstance(neck.blocks[0].fusion.norm, nn.SyncBatchNorm)
    revert_sync_batchnorm(neck)([torch.randn(2, 8, 1, 1)])


def test_initialisation():
    neck = MobileViTNeck([8], **{**SMALL, 'channels': 64})
    neck.init_weights()
    for layer in neck.modules():
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15) and (layer.bias == 0).all()


def test_dropout_is_off_unless_asked_for():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block()(x), block()(x))
    dropping = block(dropout=0.5)
    assert not torch.equal(dropping(x), dropping(x))
    assert torch.equal(dropping.eval()(x), dropping(x))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(channels=0), 'channels=0 of MobileViT should be a whole number from 1'),
        (dict(num_layers=0), 'num_layers=0 of MobileViT should be a whole number from 1'),
        (dict(patch_size=2.0), 'patch_size=2.0 of MobileViT should be a whole number from 1'),
        (dict(num_heads=5), 'channels=16 of an attention must be a multiple of num_heads=5'),
    ],
)
def test_bad_config_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        MobileViTNeck([8], **{**SMALL, **options})
    assert '\n' not in str(caught.value)

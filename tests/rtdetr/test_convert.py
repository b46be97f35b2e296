import json
import os
import runpy

import pytest
import torch
from mmengine.runner import load_checkpoint
from safetensors.torch import load_file, save_file

from mmscale.convert import checkpoint as checkpoint_files
from mmscale.convert import read_checkpoint
from mmscale.convert.command import main
from mmscale.convert.names import names_in
from mmscale.registry import MODELS
from mmscale.rtdetr import HybridEncoder

from .test_resnet_vd import official_names as resnet_names

NORM = ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
FROZEN = NORM[:-1]
CLASSES, DIMS, LAYERS, FEEDFORWARD = 5, 32, 2, 48
RESNET = [16, 32, 64]  # channels of the levels of a ResNet-18 with 8 channels in its first stage

MODEL = dict(
    type='mmscale.RTDETR',
    num_queries=20,
    backbone=dict(type='mmscale.ResNetVd', depth=18, base_channels=8, out_indices=(1, 2, 3)),
    neck=dict(
        type='mmscale.HybridEncoder',
        in_channels=RESNET,
        out_channels=DIMS,
        expansion=0.5,
        aifi=dict(num_heads=8, feedforward_channels=FEEDFORWARD),
    ),
    decoder=dict(num_layers=LAYERS, embed_dims=DIMS, feedforward_channels=FEEDFORWARD),
    bbox_head=dict(type='mmscale.RTDETRHead', num_classes=CLASSES, embed_dims=DIMS),
)


def official_shapes(
    version=1,
    backbone=None,
    in_channels=(16, 32, 64),
    dims=DIMS,
    neck_dims=None,
    feedforward=FEEDFORWARD,
    neck_feedforward=None,
    classes=CLASSES,
    layers=LAYERS,
    points=(4, 4, 4),
    expansion=0.5,
):
    """Names and shapes of the official model's weights, as its code nests its modules; the backbone's are given."""
    neck_dims, neck_feedforward = neck_dims or dims, neck_feedforward or feedforward
    shapes = dict(backbone or {})

    def conv_norm(name, out, into, kernel=1, parts=('conv', 'norm')):
        shapes[f'{name}.{parts[0]}.weight'] = (out, into, kernel, kernel)
        shapes.update({f'{name}.{parts[1]}.{leaf}': (out,) if leaf in FROZEN else () for leaf in NORM})

    def linear(name, out, into):
        shapes.update({f'{name}.weight': (out, into), f'{name}.bias': (out,)})

    def layer_norm(name, size):
        shapes.update({f'{name}.weight': (size,), f'{name}.bias': (size,)})

    def attention(name, size):
        shapes.update({f'{name}.in_proj_weight': (3 * size, size), f'{name}.in_proj_bias': (3 * size,)})
        linear(f'{name}.out_proj', size, size)

    def mlp(name, into, hidden, out, count):
        for i in range(count):
            linear(f'{name}.layers.{i}', out if i == count - 1 else hidden, into if i == 0 else hidden)

    hidden = int(neck_dims * expansion)
    for i, channels in enumerate(in_channels):
        conv_norm(f'encoder.input_proj.{i}', neck_dims, channels, parts=('01', ('conv', 'norm'))[version == 2])
    attention('encoder.encoder.0.layers.0.self_attn', neck_dims)
    linear('encoder.encoder.0.layers.0.linear1', neck_feedforward, neck_dims)
    linear('encoder.encoder.0.layers.0.linear2', neck_dims, neck_feedforward)
    for i in (1, 2):
        layer_norm(f'encoder.encoder.0.layers.0.norm{i}', neck_dims)
    for i in range(2):
        conv_norm(f'encoder.lateral_convs.{i}', neck_dims, neck_dims)
        conv_norm(f'encoder.downsample_convs.{i}', neck_dims, neck_dims, 3)
        for block in (f'encoder.fpn_blocks.{i}', f'encoder.pan_blocks.{i}'):
            conv_norm(f'{block}.conv1', hidden, 2 * neck_dims)
            conv_norm(f'{block}.conv2', hidden, 2 * neck_dims)
            for j in range(3):
                conv_norm(f'{block}.bottlenecks.{j}.conv1', hidden, hidden, 3)
                conv_norm(f'{block}.bottlenecks.{j}.conv2', hidden, hidden, 1)
            if hidden != neck_dims:
                conv_norm(f'{block}.conv3', neck_dims, hidden)

    if version == 2:
        shapes.update({'decoder.anchors': (1, 8400, 4), 'decoder.valid_mask': (1, 8400, 1)})
    for i in range(3):
        conv_norm(f'decoder.input_proj.{i}', dims, neck_dims)
    for i in range(layers):
        name = f'decoder.decoder.layers.{i}'
        attention(f'{name}.self_attn', dims)
        if version == 2:
            shapes[f'{name}.cross_attn.num_points_scale'] = (sum(points),)
        linear(f'{name}.cross_attn.sampling_offsets', 2 * 8 * sum(points), dims)
        linear(f'{name}.cross_attn.attention_weights', 8 * sum(points), dims)
        linear(f'{name}.cross_attn.value_proj', dims, dims)
        linear(f'{name}.cross_attn.output_proj', dims, dims)
        linear(f'{name}.linear1', feedforward, dims)
        linear(f'{name}.linear2', dims, feedforward)
        for j in (1, 2, 3):
            layer_norm(f'{name}.norm{j}', dims)
        linear(f'decoder.dec_score_head.{i}', classes, dims)
        mlp(f'decoder.dec_bbox_head.{i}', dims, dims, 4, 3)
    shapes['decoder.denoising_class_embed.weight'] = (classes + 1, dims)
    mlp('decoder.query_pos_head', 4, 2 * dims, dims, 2)
    for i, name in enumerate(('proj', 'norm') if version == 2 else '01'):
        (layer_norm(f'decoder.enc_output.{name}', dims) if i else linear(f'decoder.enc_output.{name}', dims, dims))
    linear('decoder.enc_score_head', classes, dims)
    mlp('decoder.enc_bbox_head', dims, dims, 4, 3)
    return shapes


def small_resnet(frozen=False):
    """Names and shapes of the official ResNet-18 with 8 channels in its first stage."""
    shapes = {}
    widths = dict(zip(('conv1.conv1_1', 'conv1.conv1_2', 'conv1.conv1_3'), ((4, 3), (4, 4), (8, 4)), strict=True))
    for name in resnet_names(18):
        module, kind, leaf = name.rsplit('.', 2)
        if module in widths:
            out, into, kernel = *widths[module], 3
        else:
            stage, block = int(module.split('.')[1]), int(module.split('.')[3])
            out = 8 * 2**stage
            into = out // 2 if stage and not block and not module.endswith('branch2b') else out
            kernel = 1 if 'short' in module else 3
        shapes[f'backbone.{name}'] = (out, into, kernel, kernel) if kind == 'conv' else (out,)
        if leaf == 'num_batches_tracked':
            shapes[f'backbone.{name}'] = ()
    return {name: shape for name, shape in shapes.items() if not (frozen and name.endswith('num_batches_tracked'))}


def hgnet_l(norm=FROZEN):
    """Names and shapes of the official HGNetv2-L, with the frozen norms of its configs."""
    shapes = {}

    def layer(name, out, into, kernel, conv='conv'):
        shapes[f'backbone.{name}.{conv}.weight'] = (out, into, kernel, kernel)
        shapes.update({f'backbone.{name}.bn.{leaf}': (out,) if leaf in FROZEN else () for leaf in norm})

    layer('stem.stem1', 32, 3, 3)
    layer('stem.stem2a', 16, 32, 2, 'conv.1')
    layer('stem.stem2b', 32, 16, 2, 'conv.1')
    layer('stem.stem3', 32, 64, 3)
    layer('stem.stem4', 48, 32, 1)
    for i, (into, mid, out, blocks) in enumerate([(48, 48, 128, 1), (128, 96, 512, 1), (512, 192, 1024, 3)]):
        stages = f'stages.{i}'
        if i:
            layer(f'{stages}.downsample', into, 1, 3)
        for block in range(blocks):
            _hg_block(layer, f'{stages}.blocks.{block}', out if block else into, mid, out, light=i > 1)
    layer('stages.3.downsample', 1024, 1, 3)
    _hg_block(layer, 'stages.3.blocks.0', 1024, 384, 2048, light=True)
    return shapes


def _hg_block(layer, name, into, mid, out, light):
    for i in range(6):
        first = mid if i else into
        if light:
            layer(f'{name}.layers.{i}.conv1', mid, first, 1)
            layer(f'{name}.layers.{i}.conv2', mid, 1, 5)
        else:
            layer(f'{name}.layers.{i}', mid, first, 3)
    layer(f'{name}.aggregation_squeeze_conv', out // 2, into + 6 * mid, 1)
    layer(f'{name}.aggregation_excitation_conv', out, out // 2, 1)


def random_state(shapes, counter=17):
    """Random weights; the second version's constant buffers as its code computes them."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if name.endswith('num_batches_tracked'):
            state[name] = torch.tensor(counter)
        elif name.endswith('num_points_scale'):
            state[name] = torch.full(shape, 3 / shape[0])
        else:
            values = torch.rand(shape, generator=generator)
            state[name] = values + 0.5 if name.endswith('running_var') else (values - 0.5) / max(1, values[0].numel())
    if 'decoder.anchors' in state:
        state['decoder.anchors'], state['decoder.valid_mask'] = official_anchors()
    return state


def official_anchors():
    levels = []
    for level, size in enumerate((80, 40, 20)):
        y, x = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing='ij')
        centers = (torch.stack((x, y), -1) + 0.5) / size
        levels.append(torch.cat((centers, torch.full_like(centers, 0.05) * 2.0**level), -1).reshape(1, -1, 4))
    boxes = torch.cat(levels, 1)
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)
    return torch.where(valid, torch.log(boxes / (1 - boxes)), torch.inf), valid


def official_file(path, version=1, frozen=False, counter=17, **options):
    state = random_state(official_shapes(version, small_resnet(frozen), **options), counter)
    torch.save(state, path)
    return state


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A folder that tests only read: both official versions, the first in our format, transformers' file."""
    folder = tmp_path_factory.mktemp('convert')
    official_file(folder / 'v1.pth', 1)
    official_file(folder / 'v2.pth', 2)
    convert(folder / 'v1.pth', folder / 'ours.pth')
    hf_model().save_pretrained(folder / 'hf')
    return folder


def config_file(path, **changes):
    path.write_text(f'model = {MODEL | changes!r}\n')
    return path


def convert(*args):
    main([str(arg) for arg in args])


def refused(capsys, *args):
    """The sentence with which the command ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        convert(*args)
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith('error: ') and told.count('\n') == 1
    return told


def assert_equal_states(state, other):
    assert sorted(state) == sorted(other)
    for name, value in state.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name


def assert_same_detections(ours, theirs):
    """Logits and boxes of every query; nearly equal scores may swap places."""
    ours, theirs = torch.cat(ours, -1).double(), torch.cat(theirs, -1).double()
    distances = torch.cdist(ours, theirs)
    assert distances.amin(-1).max() < 1e-4 and distances.amin(-2).max() < 1e-4
    assert torch.cdist(ours[0], ours[1]).amin(-1).max() > 0.1  # another image, others


def our_model(config, path):
    """A model that loads a file of ours strictly, as mmengine does."""
    model = MODELS.build(config)
    load_checkpoint(model, str(path), 'cpu', strict=True)
    return model.eval()


def hf_model(frozen=False, seed=0, kind='RTDetr', **options):
    """transformers' own small RT-DETR with random weights, norms included."""
    import transformers

    torch.manual_seed(seed)
    backbone = options.pop('backbone_config', None) or transformers.RTDetrResNetConfig(
        depths=[2, 2, 2, 2],
        layer_type='basic',
        hidden_sizes=[8, 16, 32, 64],
        embedding_size=8,
        out_indices=[2, 3, 4],
    )
    numbers = dict(
        backbone_config=backbone,
        d_model=DIMS,
        encoder_hidden_dim=DIMS,
        encoder_ffn_dim=FEEDFORWARD,
        decoder_ffn_dim=FEEDFORWARD,
        decoder_layers=LAYERS,
        decoder_in_channels=[DIMS] * 3,
        encoder_in_channels=RESNET,
        hidden_expansion=0.5,
        num_labels=CLASSES,
        num_queries=20,
        anchor_image_size=None,
        freeze_backbone_batch_norms=frozen,
    )
    config = getattr(transformers, f'{kind}Config')(**numbers | options)
    model = getattr(transformers, f'{kind}ForObjectDetection')(config)
    for name, value in model.state_dict().items():
        if name.endswith('num_batches_tracked'):
            value.fill_(11)
        elif name.endswith('running_var'):
            value.uniform_(0.5, 1.5)
        elif value.dim() >= 2:
            value.normal_(0, value[0].numel() ** -0.5)
        elif value.is_floating_point() and not name.endswith('points_scale'):
            value.add_(0.1 * torch.randn(value.shape))
    calibrate(model.eval(), torch.rand(4, 3, 96, 96))
    return model


def calibrate(model, images):
    """Set all norms' statistics to those of images, so that what differs in images reaches the detections."""

    def set_statistics(module, inputs):
        module.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        module.running_var.copy_(inputs[0].var((0, 2, 3)))

    norms = [module for module in model.modules() if hasattr(module, 'running_var')]
    handles = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()


# The official format


@pytest.mark.parametrize(('version', 'frozen', 'counter'), [(1, False, 17), (1, False, 0), (2, True, 17)])
def test_official_there_and_back(version, frozen, counter, tmp_path):
    state = official_file(tmp_path / 'in.pth', version, frozen, counter)
    config = config_file(tmp_path / 'config.py')
    convert(tmp_path / 'in.pth', tmp_path / 'ours.pth', '--config', config)
    ours = torch.load(tmp_path / 'ours.pth', weights_only=True)
    model = our_model(MODEL, tmp_path / 'ours.pth')
    assert_equal_states(ours['state_dict'], model.state_dict())
    counters = {int(v) for n, v in model.state_dict().items() if n.startswith('backbone.') and n.endswith('tracked')}
    assert counters == {0 if frozen else counter}
    convert(tmp_path / 'ours.pth', tmp_path / 'out.pth', '--to', ('official', 'official-v2')[version - 1])
    assert_equal_states(torch.load(tmp_path / 'out.pth', weights_only=True)['model'], state)


def test_weights_go_where_they_belong(files):
    """By hand, for one weight of every kind whose place a name does not give away."""
    state = torch.load(files / 'v1.pth')
    ours = torch.load(files / 'ours.pth', weights_only=True)['state_dict']
    pairs = {
        'backbone.stem.3.weight': 'backbone.conv1.conv1_2.conv.weight',
        'backbone.layer2.0.downsample.2.running_mean': 'backbone.res_layers.1.blocks.0.short.conv.norm.running_mean',
        'neck.input_proj.1.bn.bias': 'encoder.input_proj.1.1.bias',
        'neck.top_down_blocks.0.blocks.2.conv1x1.bn.running_var': (
            'encoder.fpn_blocks.0.bottlenecks.2.conv2.norm.running_var'
        ),
        'neck.bottom_up_blocks.1.conv3.conv.weight': 'encoder.pan_blocks.1.conv3.conv.weight',
        'memory_proj.1.weight': 'decoder.enc_output.1.weight',
        'decoder.query_pos_head.2.weight': 'decoder.query_pos_head.layers.1.weight',
        'bbox_head.cls_branches.1.weight': 'decoder.dec_score_head.1.weight',
        'bbox_head.cls_branches.2.weight': 'decoder.enc_score_head.weight',
        'bbox_head.reg_branches.0.4.bias': 'decoder.dec_bbox_head.0.layers.2.bias',
        'bbox_head.reg_branches.2.2.weight': 'decoder.enc_bbox_head.layers.1.weight',
    }
    for name, official in pairs.items():
        assert torch.equal(ours[name], state[official]), name


def test_both_official_versions_are_one_model(files, tmp_path):
    convert(files / 'v2.pth', tmp_path / 'as_v1.pth', '--to', 'official')
    assert sorted(torch.load(tmp_path / 'as_v1.pth')['model']) == sorted(torch.load(files / 'v1.pth'))
    convert(tmp_path / 'as_v1.pth', tmp_path / 'as_v2.pth', '--to', 'official-v2')
    assert_equal_states(torch.load(tmp_path / 'as_v2.pth')['model'], torch.load(files / 'v2.pth'))


@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize(
    ('backbone', 'options'),
    [
        (dict(type='mmscale.ResNetVd', depth=50, out_indices=(1, 2, 3)), {}),
        (
            dict(type='mmscale.ResNetVd', depth=101, out_indices=(1, 2, 3)),
            dict(neck_dims=384, neck_feedforward=2048),
        ),
        (dict(type='mmscale.HGNetV2', arch='L'), {}),
    ],
    ids=['r50', 'r101', 'hgnetv2-l'],
)
def test_names_and_shapes_of_the_published_models(version, backbone, options):
    depth = backbone.get('depth')
    numbers = dict(in_channels=(512, 1024, 2048), dims=256, feedforward=1024, classes=80, layers=6, expansion=1.0)
    expected = official_shapes(version, **numbers | options)
    neck_feedforward = options.get('neck_feedforward', 1024)
    model = MODEL | dict(
        backbone=backbone,
        neck=dict(
            type='mmscale.HybridEncoder',
            in_channels=[512, 1024, 2048],
            out_channels=options.get('neck_dims', 256),
            aifi=dict(feedforward_channels=neck_feedforward),
        ),
        decoder=dict(),
        bbox_head=dict(type='mmscale.RTDETRHead', num_classes=80),
    )
    with torch.device('meta'):
        ours = MODELS.build(model).state_dict()
    form = ('official', 'official-v2')[version - 1]
    named = {name: names_in(form, name, 6) for name in ours}
    assert all(len(names) == 1 for names in named.values())
    shapes = {names[0]: tuple(ours[name].shape) for name, names in named.items()}
    if depth:
        assert sorted(n for n in shapes if n.startswith('backbone.')) == sorted(
            f'backbone.{name}' for name in resnet_names(depth)
        )
    else:
        backbone = {name: shape for name, shape in shapes.items() if name.startswith('backbone.')}
        assert backbone == hgnet_l(NORM)
    rest = {name: shape for name, shape in shapes.items() if not name.startswith('backbone.')}
    buffers = ('anchors', 'valid_mask', 'num_points_scale')
    assert rest == {name: shape for name, shape in expected.items() if not name.endswith(buffers)}


def test_hgnetv2_l_is_recognised(tmp_path, capsys):
    shapes = official_shapes(2, hgnet_l(), in_channels=(512, 1024, 2048))
    state = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    torch.save({'model': state | random_state({n: s for n, s in shapes.items() if 'scale' in n})}, tmp_path / 'l.pth')
    convert(tmp_path / 'l.pth', tmp_path / 'ours.pth')
    told = capsys.readouterr().out
    assert 'official-v2 -> mmscale: HGNetV2 L, 2 decoder layers, 5 classes' in told and 'norms of the backbone' in told


def test_ema_is_taken_unless_told_otherwise(files, tmp_path, capsys):
    averaged = torch.load(files / 'v1.pth')
    raw = {name: value + 1 for name, value in averaged.items()}
    training = dict(
        model=raw,
        ema=dict(module=averaged, updates=7, warmups=2000),
        date='2023-04-05',
        last_epoch=3,
        optimizer=dict(state={0: dict(step=torch.tensor(1.0))}, param_groups=[dict(lr=0.1, params=[0])]),
    )
    torch.save(training, tmp_path / 'training.pth')
    name, official = 'decoder.layers.0.norm1.weight', 'decoder.decoder.layers.0.norm1.weight'
    for options, state in ([], averaged), (['--no-ema'], raw):
        convert(tmp_path / 'training.pth', tmp_path / 'ours.pth', *options)
        ours = torch.load(tmp_path / 'ours.pth', weights_only=True)['state_dict']
        assert torch.equal(ours[name], state[official])
        assert ('averaged (EMA)' in capsys.readouterr().out) == (state is averaged)
    torch.save(dict(ema=dict(module=averaged)), tmp_path / 'published.pth')
    assert torch.equal(read_checkpoint(tmp_path / 'published.pth').state[official], averaged[official])
    assert 'has averaged weights only' in refused(capsys, tmp_path / 'published.pth', tmp_path / 'x.pth', '--no-ema')


def test_ema_of_our_own_training(files, tmp_path):
    averaged = torch.load(files / 'ours.pth')['state_dict']
    other = {'steps': torch.tensor(3)} | {f'module.{name}': value + 1 for name, value in averaged.items()}
    meta = dict(epoch=1, dataset_meta=dict(classes=('a', 'b', 'c', 'd', 'e')))
    torch.save(dict(meta=meta, state_dict=averaged, ema_state_dict=other, optimizer={}), tmp_path / 'epoch_1.pth')
    for options, extra in ([], 0), (['--no-ema'], 1):
        convert(tmp_path / 'epoch_1.pth', tmp_path / 'out.pth', '--to', 'official', *options)
        out = torch.load(tmp_path / 'out.pth')['model']
        assert torch.equal(out['decoder.enc_score_head.bias'], averaged['bbox_head.cls_branches.2.bias'] + extra)


def test_coco_classes_are_named(files, tmp_path):
    state = random_state(official_shapes(1, small_resnet(), classes=80))
    torch.save(state, tmp_path / 'in.pth')
    convert(tmp_path / 'in.pth', tmp_path / 'ours.pth')
    classes = torch.load(tmp_path / 'ours.pth', weights_only=True)['meta']['dataset_meta']['classes']
    assert len(classes) == 80 and classes[0] == 'person' and classes[79] == 'toothbrush'
    assert 'dataset_meta' not in torch.load(files / 'ours.pth', weights_only=True)['meta']  # of five classes


# Hugging Face's format


@pytest.mark.parametrize(('kind', 'frozen'), [('RTDetr', True), ('RTDetrV2', False)])
def test_hf_gives_the_same_detections_there_and_back(kind, frozen, tmp_path):
    import transformers

    theirs = hf_model(frozen, kind=kind, id2label=dict(enumerate('abcde')))
    theirs.save_pretrained(tmp_path / 'hf')
    convert(tmp_path / 'hf', tmp_path / 'ours.pth', '--config', config_file(tmp_path / 'config.py'))
    ours = our_model(MODEL, tmp_path / 'ours.pth')
    assert torch.load(tmp_path / 'ours.pth')['meta']['dataset_meta']['classes'] == tuple('abcde')
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(image)
        logits, boxes = ours(image, mode='tensor')
    assert_same_detections((logits[-1], boxes[-1]), (expected.logits, expected.pred_boxes))

    convert(tmp_path / 'ours.pth', tmp_path / 'back', '--to', 'hf')
    state = load_file(tmp_path / 'back' / 'model.safetensors')
    original = load_file(tmp_path / 'hf' / 'model.safetensors')
    assert_equal_states(state, {name: v for name, v in original.items() if not name.endswith('n_points_scale')})
    back, loading = transformers.RTDetrForObjectDetection.from_pretrained(tmp_path / 'back', output_loading_info=True)
    assert not any(loading.values()), loading
    assert back.config.id2label == dict(enumerate('abcde'))
    with torch.no_grad():
        again = back.eval()(image)
    assert_same_detections((again.logits, again.pred_boxes), (expected.logits, expected.pred_boxes))
    if kind == 'RTDetr':
        before, after = theirs.config.to_dict(), back.config.to_dict()
        of_the_file = ('transformers_version', '_name_or_path', 'architectures', 'dtype', 'label2id')
        for config in (before, before['backbone_config'], after, after['backbone_config']):
            for key in of_the_file:
                config.pop(key, None)
        assert after == before


def test_hf_with_hgnetv2(tmp_path):
    from transformers import HGNetV2Config, RTDetrForObjectDetection

    from .test_hgnetv2 import B0

    channels = [256, 512, 1024]
    numbers = B0 | dict(hidden_sizes=B0['stage_out_channels'], out_indices=[2, 3, 4])
    theirs = hf_model(True, backbone_config=HGNetV2Config(**numbers), encoder_in_channels=channels)
    theirs.save_pretrained(tmp_path / 'hf')
    model = MODEL | dict(
        backbone=dict(type='mmscale.HGNetV2', arch='B0'), neck=MODEL['neck'] | dict(in_channels=channels)
    )
    convert(tmp_path / 'hf', tmp_path / 'ours.pth')
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(image)
        logits, boxes = our_model(model, tmp_path / 'ours.pth')(image, mode='tensor')
    assert_same_detections((logits[-1], boxes[-1]), (expected.logits, expected.pred_boxes))
    convert(tmp_path / 'ours.pth', tmp_path / 'back', '--to', 'hf')
    back, loading = RTDetrForObjectDetection.from_pretrained(tmp_path / 'back', output_loading_info=True)
    assert not any(loading.values()), loading
    assert_equal_states(back.state_dict(), theirs.state_dict())


def test_hf_file_alone_and_names_of_other_releases(files, tmp_path):
    """No config beside it; heads at the top too, as in old files; modules as transformers 5 has them in memory."""
    convert(files / 'hf', tmp_path / 'ours.pth')
    expected = torch.load(tmp_path / 'ours.pth')['state_dict']
    state = {name: value.clone() for name, value in hf_model().state_dict().items()}
    assert any('.aifi.' in name for name in state) and any('.mlp.fc1.' in name for name in state)
    for name in list(state):
        if name.startswith(('model.decoder.class_embed', 'model.decoder.bbox_embed')):
            state[name.removeprefix('model.decoder.')] = state[name].clone()
    save_file(state, tmp_path / 'alone.safetensors')
    convert(tmp_path / 'alone.safetensors', tmp_path / 'alone.pth')
    assert_equal_states(torch.load(tmp_path / 'alone.pth')['state_dict'], expected)


def test_heads_that_shapes_do_not_say(tmp_path, capsys):
    """16 points and 2 heads have the shapes of 4 and 8: a config says which."""
    theirs = hf_model(decoder_attention_heads=2, decoder_n_points=16, encoder_attention_heads=4)
    theirs.save_pretrained(tmp_path / 'hf')
    told = refused(capsys, tmp_path / 'hf', tmp_path / 'x.pth', '--config', config_file(tmp_path / 'config.py'))
    assert 'the checkpoint has encoder_heads=4, the model of the config 8' in told
    convert(tmp_path / 'hf', tmp_path / 'ours.pth')
    convert(tmp_path / 'ours.pth', tmp_path / 'back', '--to', 'hf')
    config = json.loads((tmp_path / 'back' / 'config.json').read_text())
    assert [config[name] for name in ('decoder_attention_heads', 'decoder_n_points', 'encoder_attention_heads')] == [
        2,
        16,
        4,
    ]
    assert config['num_queries'] == 20


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('decoder_method', 'discrete', "decoder_method='discrete'; RT-DETR here has 'default'"),
        ('decoder_offset_scale', 1.0, 'decoder_offset_scale=1.0; RT-DETR here has 0.5'),
        ('encode_proj_layers', [1, 2], r'encode_proj_layers=[1, 2]; RT-DETR here has attention on the last of the 3'),
        ('feat_strides', [4, 8, 16], 'feat_strides=[4, 8, 16]; RT-DETR here has 8'),
        ('model_type', 'd_fine', "model_type 'd_fine'; it should be one of rt_detr, rt_detr_v2"),
        ('learn_initial_query', True, 'learn_initial_query=True; RT-DETR here has False'),
    ],
)
def test_what_hf_configs_ask_for_beyond_rtdetr(key, value, message, tmp_path, capsys):
    tmp_path.joinpath('hf').mkdir()
    save_file({'a': torch.zeros(1)}, tmp_path / 'hf' / 'model.safetensors')
    config = dict(model_type='rt_detr_v2', encoder_in_channels=[1, 2, 3]) | {key: value}
    (tmp_path / 'hf' / 'config.json').write_text(json.dumps(config))
    assert message in refused(capsys, tmp_path / 'hf', tmp_path / 'x.pth')


# Mistakes


def test_missing_and_unused_weights_are_all_listed(files, tmp_path, capsys):
    state = torch.load(files / 'v2.pth')
    for leaf in ('weight', 'bias'):
        del state[f'decoder.enc_output.norm.{leaf}']
    del state['encoder.fpn_blocks.1.conv1.conv.weight']
    state['decoder.tgt_embed.weight'] = torch.zeros(20, DIMS)
    state['decoder.dec_score_head.1.bias'] = torch.zeros(7)
    torch.save(state, tmp_path / 'in.pth')
    for options in [], ['--config', config_file(tmp_path / 'config.py')]:
        told = refused(capsys, tmp_path / 'in.pth', tmp_path / 'out.pth', *options)
        assert '3 missing: decoder.enc_output.norm.{bias,weight} encoder.fpn_blocks.1.conv1.conv.weight; ' in told
        assert '1 unused: decoder.tgt_embed.weight; ' in told
        assert '1 of another shape: decoder.dec_score_head.1.bias (7,) instead of (5,)' in told
        assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize('part', ['q', 'v'])
def test_missing_part_of_an_attention(part, files, tmp_path, capsys):
    name = f'model.decoder.layers.1.self_attn.{part}_proj.bias'
    state = load_file(files / 'hf' / 'model.safetensors')
    save_file({key: value for key, value in state.items() if key != name}, tmp_path / 'in.safetensors')
    told = refused(capsys, tmp_path / 'in.safetensors', tmp_path / 'out.pth')
    assert f'1 missing: {name}' in told and 'unused' not in told


def test_every_single_weight_is_needed(files):
    """Whichever is taken away, but for counters and the denoising queries, which an official model may do without."""
    from mmscale.convert.convert import convert as convert_state
    from mmscale.engine.cli import UsageError

    source = read_checkpoint(files / 'v2.pth')
    convert_state(source, 'mmscale')
    whole = dict(source.state)
    needed = [
        n for n in whole if not n.endswith(('tracked', 'anchors', 'valid_mask', 'points_scale', 'class_embed.weight'))
    ]
    for name in needed[::61]:
        source.state = {other: value for other, value in whole.items() if other != name}
        with pytest.raises(UsageError, match='missing: |lacks '):
            convert_state(source, 'mmscale')


def test_config_of_another_model(files, tmp_path, capsys):
    config = config_file(tmp_path / 'config.py', decoder=dict(num_layers=1, embed_dims=DIMS, feedforward_channels=64))
    told = refused(capsys, files / 'v1.pth', tmp_path / 'out.pth', '--config', config)
    assert 'missing' not in told and 'decoder.decoder.layers.0.linear1.bias (48,) instead of (64,)' in told
    assert 'decoder.dec_score_head.1.{bias,weight}' in told
    config.write_text("model = dict(type='mmdet.RPNHead', in_channels=8, num_classes=1)")
    told = refused(capsys, files / 'v1.pth', tmp_path / 'out.pth', '--config', config)
    assert 'has a RPNHead as its model; it should be an RTDETR' in told


@MODELS.register_module(force=True)
class GatedEncoder(HybridEncoder):
    """An encoder with a weight of its own, as FINE's."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.gate = torch.nn.Parameter(torch.zeros(3))


def test_weights_that_only_ours_has(files, tmp_path, capsys):
    """Whichever way the checkpoint goes."""
    ours = torch.load(files / 'ours.pth')
    ours['state_dict']['neck.fine.0.q.weight'] = torch.zeros(3)
    torch.save(ours, tmp_path / 'fine.pth')
    told = refused(capsys, tmp_path / 'fine.pth', tmp_path / 'out.pth', '--to', 'official')
    assert '1 unused: neck.fine.0.q.weight' in told
    config = config_file(tmp_path / 'config.py', neck=MODEL['neck'] | dict(type='mmscale.GatedEncoder'))
    told = refused(capsys, files / 'v1.pth', tmp_path / 'out.pth', '--config', config)
    assert '1 missing: neck.gate (ours only)' in told and 'unused' not in told
    del ours['state_dict']['neck.fine.0.q.weight']
    ours['state_dict']['neck.gate'] = torch.zeros(3)
    torch.save(ours, tmp_path / 'gated.pth')
    told = refused(capsys, tmp_path / 'gated.pth', tmp_path / 'hf', '--to', 'hf', '--config', config)
    assert 'the format hf has no place for 1 of the weights, so nothing was written: neck.gate' in told
    assert not (tmp_path / 'hf').exists()


def test_levels_from_stride_4(tmp_path, capsys):
    neck = dict(type='mmscale.HybridEncoder', in_channels=[8, *RESNET], out_channels=DIMS)
    backbone = MODEL['backbone'] | dict(out_indices=(0, 1, 2, 3))
    model = MODELS.build(MODEL | dict(neck=neck, backbone=backbone))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'p2.pth')
    told = refused(capsys, tmp_path / 'p2.pth', tmp_path / 'out.pth', '--to', 'official')
    assert 'the finest level has stride 4' in told


def test_points_that_differ_between_levels(tmp_path, capsys):
    state = official_file(tmp_path / 'in.pth', 2, points=(4, 4, 2))
    for name in state:
        if name.endswith('num_points_scale'):
            state[name] = torch.tensor([1 / 4] * 8 + [1 / 2] * 2)
    torch.save(state, tmp_path / 'in.pth')
    told = refused(capsys, tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert 'different numbers of sampling points (4, 4, 2)' in told


def test_one_point_on_every_level(tmp_path):
    official_file(tmp_path / 'in.pth', 2, points=(1, 1, 1))
    convert(tmp_path / 'in.pth', tmp_path / 'ours.pth')
    assert our_model(MODEL | dict(decoder=MODEL['decoder'] | dict(num_points=1)), tmp_path / 'ours.pth')


def test_files_of_something_else(tmp_path, capsys):
    out = tmp_path / 'out.pth'
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(1), 'rpn_head.rpn_cls.bias': torch.zeros(1)}), out)
    other = tmp_path / 'frcnn.pth'
    out.rename(other)
    told = refused(capsys, other, out)
    assert 'is no checkpoint of RT-DETR: it has weights (backbone.conv1.weight, rpn_head.rpn_cls.bias, ...)' in told
    torch.save(dict(epoch=3, note='x'), other)
    assert "holds no weights by name but 'epoch', 'note'" in refused(capsys, other, out)
    other.write_bytes(b'PK not quite')
    assert 'half-written' in refused(capsys, other, out)
    other.write_text('e')
    assert 'is no checkpoint: it is neither a zip archive nor a pickle' in refused(capsys, other, out)
    (tmp_path / 'bad.safetensors').write_bytes(b'\xff' * 30)
    assert 'it is damaged or no safetensors file' in refused(capsys, tmp_path / 'bad.safetensors', out)
    assert 'does not exist' in refused(capsys, tmp_path / 'none.pth', out)
    (tmp_path / 'empty').mkdir()
    assert 'has no model.safetensors' in refused(capsys, tmp_path / 'empty', out)
    assert not out.exists()


@pytest.mark.parametrize('options', [['out.pth'], ['out', '--to', 'hf']])
def test_weights_that_are_no_numbers(options, files, tmp_path, capsys):
    """The anchors' infinity is none of theirs: files of the official code have it."""
    state = torch.load(files / 'v2.pth')
    name = next(name for name in state if name.startswith('encoder.') and name.endswith('.norm.weight'))
    state[name][1] = float('nan')
    torch.save(dict(model=state), tmp_path / 'in.pth')
    told = refused(capsys, tmp_path / 'in.pth', tmp_path / options[0], *options[1:])
    assert f"the checkpoint has NaN in '{name}', so nothing was written" in told


def test_arguments(files, tmp_path, capsys, monkeypatch):
    assert 'another one is wanted with --to' in refused(
        capsys, files / 'v1.pth', tmp_path / 'a.pth', '--to', 'official'
    )
    assert 'should be a folder' in refused(capsys, files / 'v1.pth', tmp_path / 'a.safetensors', '--to', 'hf')
    assert 'should be a file, as model.pth' in refused(capsys, files / 'v1.pth', tmp_path)
    told = refused(capsys, files / 'v1.pth', tmp_path / 'a.pth', '--from', 'hf')
    assert 'have the names of the format official' in told
    assert '--config is missing' in refused(capsys, files / 'v1.pth', tmp_path / 'a.pth', '--cfg-options', 'a=1')
    monkeypatch.setattr(checkpoint_files, 'load_file', None)
    told = refused(capsys, files / 'v1.pth', tmp_path / 'hf', '--to', 'hf')
    assert 'takes safetensors, which is not installed: pip install safetensors' in told
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_what_was_there(files, tmp_path, monkeypatch):
    (tmp_path / 'out.pth').write_text('before')
    monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        convert(files / 'v1.pth', tmp_path / 'out.pth')
    assert (tmp_path / 'out.pth').read_text() == 'before'
    assert [path.name for path in tmp_path.iterdir()] == ['out.pth']


def test_the_tool_is_the_packages_command(repo):
    assert runpy.run_path(str(repo / 'tools' / 'convert' / 'rtdetr.py'))['main'] is main

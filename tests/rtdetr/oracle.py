"""The oracle: Hugging Face transformers' RT-DETR with our weights.

The names are written down here on their own, so that a mistake in the package's converter cannot hide itself.
"""

import re

import torch
from scipy.optimize import linear_sum_assignment

# Ours to theirs; the first that fits counts.
PARTS = [
    (r'backbone\.layer(\d)\.(\d+)\.downsample\.1', r'backbone.#\1.\2.shortcut.convolution'),
    (r'backbone\.layer(\d)\.(\d+)\.downsample\.2', r'backbone.#\1.\2.shortcut.normalization'),
    (r'backbone\.layer(\d)\.(\d+)\.conv(\d)', r'backbone.#\1.\2.layer.<\3>.convolution'),
    (r'backbone\.layer(\d)\.(\d+)\.bn(\d)', r'backbone.#\1.\2.layer.<\3>.normalization'),
    (r'backbone\.stem\.(stem\w+)\.', r'backbone.model.embedder.\1.'),  # HGNetV2
    (r'backbone\.stages\.', r'backbone.model.encoder.stages.'),
    (r'neck\.input_proj\.', 'encoder_input_proj.'),
    (r'neck\.aifi\.layers\.', 'encoder.aifi.0.layers.'),
    (r'neck\.top_down_blocks\.', 'encoder.fpn_blocks.'),
    (r'neck\.bottom_up_blocks\.', 'encoder.pan_blocks.'),
    (r'neck\.(lateral|downsample)_convs\.', r'encoder.\1_convs.'),
    (r'input_proj\.', 'decoder_input_proj.'),
    (r'memory_proj\.', 'enc_output.'),
    (r'dn_query_generator\.label_embedding\.', 'denoising_class_embed.'),
    (r'bbox_head\.cls_branches\.END\.', 'enc_score_head.'),
    (r'bbox_head\.reg_branches\.END\.', 'enc_bbox_head.layers.'),
    (r'bbox_head\.cls_branches\.(\d+)\.', r'decoder.class_embed.\1.'),
    (r'bbox_head\.reg_branches\.(\d+)\.', r'decoder.bbox_embed.\1.layers.'),
    (r'decoder\.query_pos_head\.', 'decoder.query_pos_head.layers.'),
    (r'decoder\.layers\.', 'decoder.layers.'),
]
INSIDE = {
    'encoder.': {
        '.bn.': '.norm.',
        '.blocks.': '.bottlenecks.',
        '.conv3x3.': '.conv1.',
        '.conv1x1.': '.conv2.',
        '.linear': '.mlp.fc',
        '.norm1.': '.self_attn_layer_norm.',
        '.norm2.': '.final_layer_norm.',
        '.out_proj.': '.o_proj.',
    },
    'decoder.layers.': {
        '.cross_attn.': '.encoder_attn.',
        '.linear': '.mlp.fc',
        '.norm1.': '.self_attn_layer_norm.',
        '.norm2.': '.encoder_attn_layer_norm.',
        '.norm3.': '.final_layer_norm.',
        '.out_proj.': '.o_proj.',
    },
    'encoder_input_proj.': {'.conv.': '.0.', '.bn.': '.1.'},
    'decoder_input_proj.': {'.conv.': '.0.', '.bn.': '.1.'},
    'backbone.model.': {
        '.aggregation_squeeze_conv.': '.aggregation.0.',
        '.aggregation_excitation_conv.': '.aggregation.1.',
        '.conv.': '.convolution.',
        '.bn.': '.normalization.',
    },
}
HALVED = ('enc_bbox_head.layers.', 'decoder.bbox_embed.', 'decoder.query_pos_head.layers.')  # no activations in theirs


def their_name(name, layers):
    """Transformers' name of one of our parameters, but for what :func:`theirs` splits."""
    name = re.sub(rf'(branches)\.{layers}\.', r'\1.END.', name)
    if match := re.match(r'backbone\.stem\.(\d)\.(.*)', name):  # ResNet: convolution, norm, activation, ...
        place, kind = divmod(int(match[1]), 3)
        kind = ('convolution', 'normalization')[kind]
        return f'model.backbone.model.embedder.embedder.{place}.{kind}.{match[2]}'
    for pattern, replacement in PARTS:
        name, found = re.subn('^' + pattern, replacement, name)
        if found:
            break
    else:
        raise KeyError(name)
    for start, table in INSIDE.items():
        if name.startswith(start):
            for ours, others in table.items():
                name = name.replace(ours, others)
    if name.startswith(HALVED):
        name = re.sub(r'\.layers\.(\d)\.', lambda m: f'.layers.{int(m[1]) // 2}.', name)
    name = re.sub(r'#(\d)\.', lambda m: f'model.encoder.stages.{int(m[1]) - 1}.layers.', name)
    return 'model.' + re.sub(r'<(\d)>', lambda m: str(int(m[1]) - 1), name)


def theirs(values, layers, known):
    """Tensors by our names to tensors by transformers' names; ``known`` are the names that there are."""
    result = {}
    for name, value in values.items():
        name = their_name(name, layers)
        if '.in_proj_' in name:
            owner, leaf = name.rsplit('.in_proj_', 1)
            result |= {f'{owner}.{q}_proj.{leaf}': part for q, part in zip('qkv', value.chunk(3), strict=True)}
            continue
        pooled = name.replace('.shortcut.', '.shortcut.1.')  # behind a pooling
        result[pooled if pooled in known else name] = value
    return result


def twin(model, backbone_config, **options):
    """Transformers' model with the numbers and the weights of one of ours; every weight of both has its partner."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection

    decoder, neck = model.decoder, model.neck
    layer = decoder.layers[0]
    config = RTDetrConfig(
        backbone_config=backbone_config,
        encoder_in_channels=neck.in_channels,
        encoder_hidden_dim=neck.out_channels,
        encoder_ffn_dim=neck.aifi.layers[0].linear1.out_features,
        encoder_attention_heads=neck.aifi.layers[0].self_attn.num_heads,
        hidden_expansion=neck.top_down_blocks[0].conv1.out_channels / neck.out_channels,
        decoder_in_channels=[neck.out_channels] * neck.num_outs,
        d_model=decoder.embed_dims,
        decoder_layers=decoder.num_layers,
        decoder_attention_heads=layer.self_attn.num_heads,
        decoder_ffn_dim=layer.linear1.out_features,
        decoder_n_points=layer.cross_attn.num_points,
        num_feature_levels=neck.num_outs,
        num_queries=model.num_queries,
        num_labels=model.bbox_head.num_classes,
        **options,
    )
    other = RTDetrForObjectDetection(config).train(model.training)
    own, state = model.state_dict(), other.state_dict()
    mapped = theirs(own, decoder.num_layers, state)
    unmatched = {name for name in set(mapped) ^ set(state) if not name.endswith('num_batches_tracked')}
    assert not unmatched, sorted(unmatched)
    other.load_state_dict({name: mapped.get(name, value) for name, value in state.items()})
    return other


def resnet(depth=18, base_channels=64):
    from transformers import RTDetrResNetConfig

    basic = depth < 50
    widths = [base_channels * (1 if basic else 4) * 2**i for i in range(4)]
    return RTDetrResNetConfig(
        depths={18: [2, 2, 2, 2], 50: [3, 4, 6, 3]}[depth],
        layer_type='basic' if basic else 'bottleneck',
        embedding_size=base_channels,
        hidden_sizes=widths,
        out_indices=[2, 3, 4],
    )


def hgnetv2_l():
    from transformers import HGNetV2Config

    return HGNetV2Config(out_indices=[2, 3, 4])  # its defaults are L's numbers


def targets(samples):
    """Our data samples as transformers' labels: classes and boxes (cx, cy, w, h) over the padded batch's size."""
    result = []
    for sample in samples:
        height, width = sample.batch_input_shape
        x1, y1, x2, y2 = sample.gt_instances.bboxes.unbind(-1)
        boxes = torch.stack((x1 + x2, y1 + y2, 2 * (x2 - x1), 2 * (y2 - y1)), dim=-1) / 2
        boxes = boxes / torch.tensor([width, height, width, height])
        result.append(dict(class_labels=sample.gt_instances.labels, boxes=boxes))
    return result


def gap(scores, count):
    """How far the last query that is chosen lies above the first that is not, by scores ``(B, S)``; the least."""
    best = scores.topk(count + 1, dim=1).values
    return (best[:, -2] - best[:, -1]).min().item()


def same_queries(logits, boxes, other_logits, other_boxes):
    """The largest difference of logits and of boxes, ``(B, Q, ...)``, query by query.

    Scores that tie to the last digit come in any order out of a top-k, so queries are paired by what they say; the
    decoder does not care for their order.
    """
    worst = [0.0, 0.0]
    for image in range(len(logits)):
        ours = torch.cat((logits[image], boxes[image]), dim=1)
        others = torch.cat((other_logits[image], other_boxes[image]), dim=1)
        rows, columns = linear_sum_assignment(torch.cdist(ours, others).numpy())
        difference = (ours[rows] - others[columns]).abs()
        classes = logits.shape[-1]
        worst = [
            max(worst[0], difference[:, :classes].max().item()),
            max(worst[1], difference[:, classes:].max().item()),
        ]
    return worst

"""Hugging Face's side: the config beside the weights, and names that files of some releases have."""

import re

from torch import Tensor

from mmscale.engine.cli import UsageError

from .architecture import Architecture

__all__ = ['check_config', 'classes_of', 'config_of', 'facts_of_config', 'with_common_names']

# What our RT-DETR computes, by the option that would change it; `backbone_config` has some of its own.
FIXED = dict(
    activation_function='silu',
    batch_norm_eps=1e-5,
    decoder_activation_function='relu',
    decoder_method='default',
    decoder_offset_scale=0.5,
    encoder_activation_function='gelu',
    layer_norm_eps=1e-5,
    learn_initial_query=False,
    normalize_before=False,
    positional_encoding_temperature=10000,
    with_box_refine=True,
)
FIXED_IN_BACKBONE = dict(downsample_in_bottleneck=False, downsample_in_first_stage=False, hidden_act='relu')
MODEL_TYPES = ('rt_detr', 'rt_detr_v2')
OTHER_NAMES = (
    (r'^(class_embed|bbox_embed)\.', r'model.decoder.\1.'),  # the same tensors, which some files have twice
    (r'^model\.encoder\.aifi\.', 'model.encoder.encoder.'),  # in memory since transformers 5.0
    (r'\.mlp\.(fc[12])\.', r'.\1.'),
    (r'\.self_attn\.o_proj\.', '.self_attn.out_proj.'),
)


def with_common_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that files have, whichever release of transformers wrote them.

    Args:
        state (dict[str, Tensor]): Weights by name.

    Raises:
        UsageError: If two names of one tensor hold different ones.
    """
    renamed = {}
    for name, value in state.items():
        common = name
        for pattern, other in OTHER_NAMES:
            common = re.sub(pattern, other, common)
        if common in renamed and not renamed[common].equal(value):
            raise UsageError(f"the checkpoint has two different tensors for '{common}', one of them called '{name}'")
        renamed[common] = value
    return renamed


def check_config(config: dict) -> None:
    """Refuse a config that asks for what our RT-DETR does not compute.

    Args:
        config (dict): Content of ``config.json``.

    Raises:
        UsageError: If it does.
    """
    kind = config.get('model_type')
    if kind not in MODEL_TYPES:
        raise UsageError(f'config.json has model_type {kind!r}; it should be one of {", ".join(MODEL_TYPES)}')
    backbone = config.get('backbone_config') or {}
    for owner, options, fixed in (('', config, FIXED), ('backbone_config.', backbone, FIXED_IN_BACKBONE)):
        for name, value in fixed.items():
            if options.get(name, value) != value:
                raise UsageError(f'config.json has {owner}{name}={options[name]!r}; RT-DETR here has {value!r}')
    levels = len(config.get('encoder_in_channels', (512, 1024, 2048)))
    if list(config.get('encode_proj_layers', [2])) != [levels - 1]:
        raise UsageError(
            f'config.json has encode_proj_layers={config["encode_proj_layers"]}; RT-DETR here has attention on the '
            f'last of the {levels} levels alone'
        )
    strides = list(config.get('feat_strides', [8, 16, 32]))
    if strides != [8 * 2**i for i in range(levels)]:
        raise UsageError(f'config.json has feat_strides={strides}; RT-DETR here has 8, twice that, and so on')


def facts_of_config(config: dict) -> dict:
    """What the weights do not say, see :func:`~mmscale.convert.architecture.read_architecture`."""
    return dict(
        num_points=config.get('decoder_n_points', 4),
        encoder_heads=config.get('encoder_attention_heads', 8),
        decoder_heads=config.get('decoder_attention_heads', 8),
        num_queries=config.get('num_queries', 300),
    )


def classes_of(config: dict) -> tuple[str, ...] | None:
    """Names of the classes; None if the config has the library's placeholders."""
    labels = {int(index): str(name) for index, name in (config.get('id2label') or {}).items()}
    names = tuple(labels[index] for index in sorted(labels))
    return None if names == _placeholders(len(names)) else names


def config_of(architecture: Architecture, classes: tuple[str, ...] | None, frozen_norms: bool) -> dict:
    """Content of ``config.json`` for :class:`transformers.RTDetrForObjectDetection`.

    Args:
        architecture (Architecture): Of the weights.
        classes (tuple[str], optional): Their names.
        frozen_norms (bool): Whether the backbone's norms are frozen, and their counters absent.

    Raises:
        UsageError: If the library has no such RT-DETR.
    """
    if architecture.num_blocks != 3:
        raise UsageError(f'the encoder has {architecture.num_blocks} blocks in a fusion block, Hugging Face always 3')
    levels = len(architecture.in_channels)
    names = classes or _placeholders(architecture.num_classes)
    return dict(
        architectures=['RTDetrForObjectDetection'],
        model_type='rt_detr',
        torch_dtype='float32',
        backbone_config=_backbone_config(architecture),
        freeze_backbone_batch_norms=frozen_norms,
        encoder_in_channels=architecture.in_channels,
        feat_strides=[8 * 2**i for i in range(levels)],
        encoder_hidden_dim=architecture.out_channels,
        encoder_layers=architecture.aifi_layers,
        encoder_ffn_dim=architecture.aifi_feedforward,
        encoder_attention_heads=architecture.encoder_heads,
        encode_proj_layers=[levels - 1],
        hidden_expansion=architecture.expansion,
        d_model=architecture.embed_dims,
        num_queries=architecture.num_queries,
        decoder_in_channels=[architecture.out_channels] * levels,
        decoder_ffn_dim=architecture.feedforward,
        num_feature_levels=levels,
        decoder_n_points=architecture.num_points,
        decoder_layers=architecture.decoder_layers,
        decoder_attention_heads=architecture.decoder_heads,
        num_denoising=100 if architecture.denoising else 0,
        id2label={str(index): name for index, name in enumerate(names)},
        label2id={name: index for index, name in enumerate(names)},
    )


def _backbone_config(architecture: Architecture) -> dict:
    stages, image = architecture.stages, architecture.backbone['in_channels']
    common = dict(num_channels=image, out_indices=[index + 1 for index in architecture.backbone['out_indices']])
    if stages['kind'] == 'resnet':
        return dict(
            common,
            model_type='rt_detr_resnet',
            embedding_size=stages['stem'],
            hidden_sizes=architecture.widths,
            depths=stages['blocks'],
            layer_type='bottleneck' if stages['bottleneck'] else 'basic',
        )
    count = len(stages['blocks'])
    return dict(
        common,
        model_type='hgnet_v2',
        depths=stages['blocks'],
        hidden_sizes=stages['out'],
        stem_channels=[image, *stages['stem']],
        stage_in_channels=[stages['stem'][1], *stages['out'][:-1]],
        stage_mid_channels=stages['mid'],
        stage_out_channels=stages['out'],
        stage_num_blocks=stages['blocks'],
        stage_numb_of_layers=[stages['layers']] * count,
        stage_downsample=[False, True, True, True][:count],
        stage_light_block=[False, False, True, True][:count],
        stage_kernel_size=[3, 3, 5, 5][:count],
        use_learnable_affine_block=stages['lab'],
    )


def _placeholders(count: int) -> tuple[str, ...]:
    return tuple(f'LABEL_{index}' for index in range(count))

"""What a weight of our RT-DETR is called in the other formats.

Names are mapped in this direction only: whoever reads another format asks for the names of the weights that its model
has, so that nothing is matched by chance and nothing is left over unseen.

The formats:

- ``'official'``: github.com/lyuwenyu/RT-DETR, ``rtdetr_pytorch``.
- ``'official-v2'``: the same, ``rtdetrv2_pytorch``, which renamed two modules and has more buffers.
- ``'hf'``: Hugging Face's files, as every release of transformers reads them (since 5.0 the modules in memory are
  called otherwise, and the library translates).
"""

import re
from functools import lru_cache
from itertools import product

from mmscale.rtdetr import HGNetV2, ResNetVd

__all__ = ['COUNTER', 'FORMATS', 'module_pattern', 'module_replacement', 'names_in']

FORMATS = ('official', 'official-v2', 'hf')
COUNTER = 'num_batches_tracked'  # of batch norm; frozen norms of the other formats have none

# Of a Transformer layer: ours and official, and Hugging Face's.
ATTENTION = {'self_attn': 'self_attn', 'self_attn.out_proj': 'self_attn.out_proj'}
FEEDFORWARD = {'linear1': 'fc1', 'linear2': 'fc2'}
ENCODER_LAYER = {**ATTENTION, **FEEDFORWARD, 'norm1': 'self_attn_layer_norm', 'norm2': 'final_layer_norm'}
DECODER_LAYER = {
    **ATTENTION,
    **FEEDFORWARD,
    **{
        f'cross_attn.{name}': f'encoder_attn.{name}'
        for name in ('sampling_offsets', 'attention_weights', 'value_proj', 'output_proj')
    },
    'norm1': 'self_attn_layer_norm',
    'norm2': 'encoder_attn_layer_norm',
    'norm3': 'final_layer_norm',
}


def names_in(form: str, name: str, decoder_layers: int) -> list[str]:
    """The names under which another format has one of our weights.

    Args:
        form (str): One of ``FORMATS``.
        name (str): Our name of a parameter or buffer.
        decoder_layers (int): Layers of the decoder; the head's branches after theirs are the encoder's.

    Returns:
        list[str]: One name; three where Hugging Face has the queries', keys' and values' parts of our tensor, in this
        order; none if the format has no such weight.

    Example:
        >>> names_in('official', 'neck.top_down_blocks.0.blocks.2.conv1x1.bn.weight', 6)
        ['encoder.fpn_blocks.0.bottlenecks.2.conv2.norm.weight']
        >>> names_in('official', 'bbox_head.reg_branches.6.2.bias', 6)
        ['decoder.enc_bbox_head.layers.1.bias']
    """
    module, _, leaf = name.rpartition('.')
    if module.startswith('backbone.'):
        other = _backbone_name(form, name.removeprefix('backbone.'))
        return [other] if other else []
    column = FORMATS.index(form)
    for pattern, others in _patterns(decoder_layers):
        if match := pattern.fullmatch(module):
            other = match.expand(others[column])
            if form == 'hf' and leaf.startswith('in_proj_'):
                return [f'{other}.{part}_proj.{leaf.removeprefix("in_proj_")}' for part in 'qkv']
            return [f'{other}.{leaf}']
    return []


def _backbone_name(form: str, name: str) -> str | None:
    """The whole name of a weight of ResNet-vd or HGNetV2, from ours without ``backbone.``."""
    if form != 'hf':
        if name.startswith(('stem.stem', 'stages.')):
            return f'backbone.{HGNetV2.official_name(name)}'
        official = ResNetVd.official_name(name)
        return None if official == name else f'backbone.{official}'
    module, _, leaf = name.rpartition('.')
    for pattern, other in _hf_backbone_patterns():
        if match := pattern.fullmatch(module):
            return f'model.backbone.model.{match.expand(other)}.{leaf}'
    return None


@lru_cache
def _patterns(decoder_layers: int) -> list[tuple[re.Pattern, tuple[str, str, str]]]:
    """Our modules but for the backbone's, and what the formats call them; ``#`` is a number."""
    rows = []

    def row(ours: str, official: str, hf: str, official_v2: str | None = None) -> None:
        rows.append((module_pattern(ours), tuple(map(module_replacement, (official, official_v2 or official, hf)))))

    def conv_norm(ours: str, official: str) -> None:
        for own, other in (('conv', 'conv'), ('bn', 'norm')):
            row(f'neck.{ours}.{own}', f'encoder.{official}.{other}', f'model.encoder.{official}.{other}')

    for i, (own, other) in enumerate((('conv', 'conv'), ('bn', 'norm'))):
        encoder = f'encoder.input_proj.#.{i}', f'model.encoder_input_proj.#.{i}', f'encoder.input_proj.#.{other}'
        row(f'neck.input_proj.#.{own}', *encoder)
        row(f'input_proj.#.{own}', f'decoder.input_proj.#.{other}', f'model.decoder_input_proj.#.{i}')
        row(
            f'memory_proj.{i}',
            f'decoder.enc_output.{i}',
            f'model.enc_output.{i}',
            f'decoder.enc_output.{("proj", "norm")[i]}',
        )
        row(f'decoder.query_pos_head.{2 * i}', *[f'{x}decoder.query_pos_head.layers.{i}' for x in ('', 'model.')])
    for own, other in ENCODER_LAYER.items():
        row(
            f'neck.aifi.layers.#.{own}',
            f'encoder.encoder.0.layers.#.{own}',
            f'model.encoder.encoder.0.layers.#.{other}',
        )
    for name in ('lateral_convs.#', 'downsample_convs.#'):
        conv_norm(name, name)
    for own, other in (('top_down_blocks.#', 'fpn_blocks.#'), ('bottom_up_blocks.#', 'pan_blocks.#')):
        for name in ('conv1', 'conv2', 'conv3'):
            conv_norm(f'{own}.{name}', f'{other}.{name}')
        conv_norm(f'{own}.blocks.#.conv3x3', f'{other}.bottlenecks.#.conv1')
        conv_norm(f'{own}.blocks.#.conv1x1', f'{other}.bottlenecks.#.conv2')
    for own, other in DECODER_LAYER.items():
        row(f'decoder.layers.#.{own}', f'decoder.decoder.layers.#.{own}', f'model.decoder.layers.#.{other}')
    # The encoder's branches first: theirs is one of the numbers that # stands for.
    row(f'bbox_head.cls_branches.{decoder_layers}', 'decoder.enc_score_head', 'model.enc_score_head')
    row('bbox_head.cls_branches.#', 'decoder.dec_score_head.#', 'model.decoder.class_embed.#')
    for i in range(3):
        own, tail = f'bbox_head.reg_branches.{decoder_layers}.{2 * i}', f'enc_bbox_head.layers.{i}'
        row(own, f'decoder.{tail}', f'model.{tail}')
    for i in range(3):
        own, tail = f'bbox_head.reg_branches.#.{2 * i}', f'#.layers.{i}'
        row(own, f'decoder.dec_bbox_head.{tail}', f'model.decoder.bbox_embed.{tail}')
    row('dn_query_generator.label_embedding', 'decoder.denoising_class_embed', 'model.denoising_class_embed')
    return rows


@lru_cache
def _hf_backbone_patterns() -> list[tuple[re.Pattern, str]]:
    rows = []
    for i, (own, other) in product(range(3), (('conv', 'convolution'), ('bn', 'normalization'))):
        rows.append((f'stem.{3 * i + (own == "bn")}', f'embedder.embedder.{i}.{other}'))
        for stage in range(4):
            rows.append((f'layer{stage + 1}.#.{own}{i + 1}', f'encoder.stages.{stage}.layers.#.layer.{i}.{other}'))
    for stage, (i, other) in product(range(4), ((1, 'convolution'), (2, 'normalization'))):
        short = 'shortcut.1' if stage else 'shortcut'  # behind a pooling but in the first stage
        rows.append((f'layer{stage + 1}.#.downsample.{i}', f'encoder.stages.{stage}.layers.#.{short}.{other}'))
    aggregation = {'aggregation_squeeze_conv': 'aggregation.0', 'aggregation_excitation_conv': 'aggregation.1'}
    layers = {f'layers.#{part}': f'layers.#{part}' for part in ('', '.conv1', '.conv2')}
    blocks = {f'stages.#.blocks.#.{own}': f'encoder.stages.#.blocks.#.{o}' for own, o in (aggregation | layers).items()}
    stem = {f'stem.{name}': f'embedder.{name}' for name in ('stem1', 'stem2a', 'stem2b', 'stem3', 'stem4')}
    parts = {'conv': 'convolution', 'bn': 'normalization', 'lab': 'lab'}
    for (own, other), (own_part, other_part) in product(
        (stem | blocks | {'stages.#.downsample': 'encoder.stages.#.downsample'}).items(), parts.items()
    ):
        rows.append((f'{own}.{own_part}', f'{other}.{other_part}'))
    return [(module_pattern(own), module_replacement(other)) for own, other in rows]


def module_pattern(module: str) -> re.Pattern:
    """A pattern for a module's name in which ``#`` is a number."""
    return re.compile(re.escape(module).replace(r'\#', r'(\d+)'))


def module_replacement(module: str) -> str:
    """A module's name in which the n-th number stands for the n-th of the pattern."""
    parts = module.split('#')
    return parts[0] + ''.join(rf'\g<{i}>{part}' for i, part in enumerate(parts[1:], start=1))

"""What a weight of our YOLOs is called in a state dict of ultralytics' form.

There a network is a list, ``model.<index>``, whose layers without weights (upsampling, concatenation) count; a layer's
parts are called ``cv1``, ``cv2``, ``m``. As in :mod:`mmscale.convert.names`, names are mapped from ours to theirs only.
"""

import re
from functools import lru_cache

from mmscale.convert.names import module_pattern, module_replacement

__all__ = ['FAMILIES', 'dfl_name', 'head_index', 'official_name']

# Layers of a backbone's stages; the stem comes before them.
FAMILIES = {'YOLOv8': (2, 2, 2, 3), 'YOLOv10': (2, 2, 2, 4), 'YOLOv12': (2, 2, 2, 2)}

# Of our neck's layers, how many after the backbone's last.
NECK = {
    'top_down_layers.0': 3,
    'top_down_layers.1': 6,
    'downsample_layers.0': 7,
    'bottom_up_layers.0': 9,
    'downsample_layers.1': 10,
    'bottom_up_layers.1': 12,
}
HEAD = 13

# Modules within a layer: ours, and theirs; # is a number. A layer of one convolution has none.
BOTTLENECKS = {'blocks.#.conv1': 'm.#.cv1', 'blocks.#.conv2': 'm.#.cv2'}
C2F = {'split': 'cv1', 'fuse': 'cv2', **BOTTLENECKS}
REDUCE = {'reduce': 'cv1'}  # SPPF's, A2C2f's
BLOCKS = {
    'YOLOv8': {'main_conv': 'cv1', 'final_conv': 'cv2', **BOTTLENECKS, 'conv1': 'cv1', 'conv2': 'cv2'},
    'YOLOv10': {
        **C2F,
        **REDUCE,
        'blocks.#.layers.#': 'm.#.cv1.#',
        'blocks.#.layers.#.large': 'm.#.cv1.#.conv',
        'blocks.#.layers.#.small': 'm.#.cv1.#.conv1',
        'pointwise': 'cv1',
        'depthwise': 'cv2',
        'attention.queries_keys_values': 'attn.qkv',
        'attention.position': 'attn.pe',
        'attention.out': 'attn.proj',
        'mlp.#': 'ffn.#',
    },
    'YOLOv12': {
        **C2F,
        **REDUCE,
        'blocks.#.deep': 'm.#.cv1',
        'blocks.#.shallow': 'm.#.cv2',
        'blocks.#.fuse': 'm.#.cv3',
        'blocks.#.blocks.#.conv1': 'm.#.m.#.cv1',
        'blocks.#.blocks.#.conv2': 'm.#.m.#.cv2',
        'blocks.#.#.attention.queries_keys': 'm.#.#.attn.qk',
        'blocks.#.#.attention.values': 'm.#.#.attn.v',
        'blocks.#.#.attention.position': 'm.#.#.attn.pe',
        'blocks.#.#.attention.out': 'm.#.#.attn.proj',
        'blocks.#.#.mlp.#': 'm.#.#.mlp.#',
    },
}
JOINT = {f'blocks.#.#.attention.{part}': 'm.#.#.attn.qkv' for part in ('queries_keys', 'values')}

BOXES = {'reg_preds.#.#': 'cv2.#.#'}
LIGHT = BOXES | {f'cls_preds.#.{i}': f'cv3.#.{other}' for i, other in enumerate(('0.0', '0.1', '1.0', '1.1', '2'))}
HEADS = {
    'YOLOv8': BOXES | {'cls_preds.#.#': 'cv3.#.#'},
    'YOLOv10': {
        f'{branch}.{own}': f'{prefix}{other}'
        for branch, prefix in (('one_to_many', ''), ('one_to_one', 'one2one_'))
        for own, other in LIGHT.items()
    },
    'YOLOv12': LIGHT,
}


def official_name(family: str, name: str, joint: bool = False) -> str | None:
    """The name of one of our weights in a state dict of ultralytics' form.

    Args:
        family (str): One of ``FAMILIES``.
        name (str): Our name of a parameter or buffer.
        joint (bool): Whether YOLOv12's queries, keys and values are one tensor there, where ours has two.
            Defaults to False.

    Returns:
        str | None: Its name; None if there is no such weight.

    Example:
        >>> official_name('YOLOv8', 'neck.top_down_layers.0.main_conv.bn.weight')
        'model.12.cv1.bn.weight'
        >>> official_name('YOLOv10', 'bbox_head.head_module.one_to_one.cls_preds.2.4.bias')
        'model.23.one2one_cv3.2.2.bias'
    """
    module, _, leaf = name.rpartition('.')
    parts = module.split('.')
    indices = _layers(family)
    layer = next((found for count in (2, 3) if (found := '.'.join(parts[:count])) in indices), None)
    if layer is None:
        return None
    inner = parts[layer.count('.') + 1 :]
    unit = [inner.pop()] if inner and inner[-1] in ('conv', 'bn') else []
    for pattern, other in _patterns(family, joint, indices[layer] == head_index(family)):
        if match := pattern.fullmatch('.'.join(inner)):
            return '.'.join(filter(None, ('model', str(indices[layer]), match.expand(other), *unit, leaf)))
    return None


def head_index(family: str) -> int:
    """Index of a family's head."""
    return sum(FAMILIES[family]) + HEAD


def dfl_name(family: str) -> str:
    """The head's constant bins, which ours computes."""
    return f'model.{head_index(family)}.dfl.conv.weight'


@lru_cache
def _layers(family: str) -> dict[str, int]:
    """Indices of our layers."""
    stages = [f'stage{stage}.{i}' for stage, count in enumerate(FAMILIES[family], start=1) for i in range(count)]
    found = {f'backbone.{layer}': index for index, layer in enumerate(['stem', *stages])}
    found |= {f'neck.{layer}': len(stages) + step for layer, step in NECK.items()}
    return found | {'bbox_head.head_module': head_index(family)}


@lru_cache
def _patterns(family: str, joint: bool, head: bool) -> list[tuple[re.Pattern, str]]:
    rows = HEADS[family] if head else {'': '', **BLOCKS[family], **(JOINT if joint else {})}
    return [(module_pattern(own), module_replacement(other)) for own, other in rows.items()]

"""A state dict of ultralytics' form into ours, by the names and shapes that the config's model itself has.

Every weight of the model must be in the state dict, in its shape, and nothing else but the head's constant bins.
"""

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmscale.compat import import_mmyolo
from mmscale.convert.checkpoint import Checkpoint, coco_classes
from mmscale.convert.convert import build_without_weights, refuse_misfit
from mmscale.engine.cli import UsageError

from .layout import Layout, read_layout
from .names import dfl_name, official_name

__all__ = ['convert', 'family_of', 'official_shapes']


def convert(state: dict[str, Tensor], config: Config) -> tuple[Checkpoint, Layout]:
    """Convert a state dict.

    Args:
        state (dict[str, Tensor]): What :func:`~mmscale.convert.ultralytics.read_state` read.
        config (Config): A whole config; the weights must be its model's.

    Returns:
        tuple[Checkpoint, Layout]: The weights in our names, in single precision, and what they are of.

    Raises:
        ImportError: If mmyolo is not installed.
        UsageError: If they are of another model, or some are missing, of another shape, or of no use, all of which it
            lists.
    """
    import_mmyolo()
    model = build_without_weights(config)
    family = family_of(model, config)
    given = {name: tuple(value.shape) for name, value in state.items()}
    layout = read_layout(given)
    if layout is None:
        raise UsageError(
            f'the checkpoint is no state dict of YOLOv8, YOLOv10 or YOLOv12 as ultralytics names them: it has weights '
            f'({", ".join(list(state)[:3])}, ...) as none of these detectors'
        )
    if not any('.bn.' in name for name in given):
        raise UsageError(
            f'the checkpoint looks like a fused {layout}, without batch norms, which are in the convolutions; take the '
            'state dict before fuse()'
        )
    joint = any('.attn.qkv.' in name for name in given)
    wanted = official_shapes(model, family, joint)
    expected = read_layout(wanted)
    if expected is None or layout.differs(expected):
        raise UsageError(
            f'the checkpoint looks like {layout}, but the model of the config like {expected or family}; nothing was '
            'written'
        )
    if overrides := layout.overrides(expected):
        raise UsageError(
            f'the checkpoint looks like {layout}, but the model of the config like {expected}; nothing was written. '
            f"To have the checkpoint's: --cfg-options {overrides}"
        )
    refuse_misfit(str(layout), given, wanted)
    _check_values(state, dfl_name(family))
    found = Checkpoint('mmscale', _to_ours(state, model, family, joint), classes=coco_classes(layout.classes))
    return found, layout


def family_of(model: nn.Module, config: Config) -> str:
    """The family of a config's model, by its backbone.

    Raises:
        UsageError: If it is of none.
    """
    from mmscale.yolo.api import YOLOv8CSPDarknet
    from mmscale.yolo.backbones import YOLOv10Backbone, YOLOv12Backbone

    backbone = getattr(model, 'backbone', None)
    kinds = {'YOLOv8': YOLOv8CSPDarknet, 'YOLOv10': YOLOv10Backbone, 'YOLOv12': YOLOv12Backbone}
    family = next((family for family, kind in kinds.items() if isinstance(backbone, kind)), None)
    if family is None or not hasattr(getattr(model, 'bbox_head', None), 'head_module'):
        raise UsageError(
            f"config '{config.filename}' has a {type(model).__name__} with a {type(backbone).__name__} as its model; "
            'it should be YOLOv8, YOLOv10 or YOLOv12'
        )
    return family


def official_shapes(model: nn.Module, family: str, joint: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official state dict of our model.

    Args:
        model (nn.Module): Ours.
        family (str): Of :func:`family_of`.
        joint (bool): As :func:`~mmscale.convert.ultralytics.names.official_name`'s. Defaults to False.

    Returns:
        dict[str, tuple[int, ...]]: A weight that only ours has is called so.
    """
    shapes = {}
    for name, value in model.state_dict().items():
        official = official_name(family, name, joint) or f'{name} (ours only)'
        shape = tuple(value.shape)
        if official in shapes and shape:  # the queries' and keys', then the values'
            shape = (shapes[official][0] + shape[0], *shape[1:])
        shapes[official] = shape
    reg_max = getattr(model.bbox_head.head_module, 'reg_max', 16)
    return shapes | {dfl_name(family): (1, reg_max, 1, 1)}


def _check_values(state: dict[str, Tensor], dfl: str) -> None:
    """Refuse bins that are not those that ours computes, and weights that are not numbers of floating point."""
    bins = state[dfl].flatten().tolist()
    if bins != list(range(len(bins))):
        raise UsageError(f"'{dfl}' should be 0 to {len(bins) - 1}, the bins of a box's side, but is {bins}")
    strange = [
        f'{name} ({value.dtype})'
        for name, value in state.items()
        if value.is_floating_point() == name.endswith('num_batches_tracked')
    ]
    if strange:
        raise UsageError(f'the checkpoint has weights of a type that weights do not have: {", ".join(strange[:3])}')


def _to_ours(state: dict[str, Tensor], model: nn.Module, family: str, joint: bool) -> dict[str, Tensor]:
    found = {}
    for name, own in model.state_dict().items():
        value = state[official_name(family, name, joint)].to(own.dtype, copy=True)
        attention, _, part = name.rpartition('.attention.')
        part = part.split('.')[0]
        if joint and part in ('queries_keys', 'values') and value.dim():
            value = _part_of_joint(value, part, model.get_submodule(f'{attention}.attention').num_heads)
        found[name] = value
    return found


def _part_of_joint(value: Tensor, part: str, num_heads: int) -> Tensor:
    """Of every head's queries, keys and values in a row those of ours: all queries and then all keys, or all values."""
    queries, keys, values = value.unflatten(0, (num_heads, 3, -1)).unbind(1)
    parts = [queries, keys] if part == 'queries_keys' else [values]
    return torch.cat([heads.flatten(0, 1) for heads in parts])

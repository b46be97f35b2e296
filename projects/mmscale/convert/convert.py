"""From one format into another, by the names and shapes that the model itself has.

    file -- their names --+-- compared, in their names -- our names -- names of the target -- file
                          |
    config, or shapes -- model

The model is built without memory for weights. Every weight of it must be in the file, in its shape, and nothing else.
"""

import re
from dataclasses import replace
from functools import partial

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmscale.engine.cli import UsageError
from mmscale.registry import MODELS
from mmscale.rtdetr import RTDETR
from mmscale.rtdetr.query_selection import proposal_anchors

from . import huggingface
from .architecture import Architecture, count_decoder_layers, facts_of, read_architecture
from .checkpoint import Checkpoint, coco_classes, require_finite
from .names import COUNTER, names_in

__all__ = ['build', 'build_without_weights', 'convert', 'refuse_misfit']

# Buffers of the other formats that follow from the model and the size of the image.
CONSTANT = re.compile(
    r'decoder\.(anchors|valid_mask)|encoder\.pos_embed\d+|model\.(anchors|valid_mask)'
    r'|.*\.(num_points_scale|n_points_scale)'
)
POINTS = re.compile(r'.*\.(?:num_points_scale|n_points_scale)')
SIZE = 640  # of the image whose anchors a file of the official v2 holds; that of all its configs


def convert(source: Checkpoint, target: str, config: Config | None = None) -> tuple[Checkpoint, Architecture]:
    """Convert a checkpoint.

    Args:
        source (Checkpoint): What :func:`~mmscale.convert.read_checkpoint` read.
        target (str): ``'mmscale'``, ``'official'``, ``'official-v2'`` or ``'hf'``.
        config (Config, optional): A whole config; the weights must be its model's. Defaults to None: those of the model
            that their own shapes say.

    Returns:
        tuple[Checkpoint, Architecture]: Its weights in the target's names, and what they are of.

    Raises:
        UsageError: If weights are missing, of another shape, or of no use, all of which it lists; if NaN or infinity is
            among them; or if one of the formats has no such RT-DETR.
    """
    if target == source.form:
        raise UsageError(f'the checkpoint is in the format {target} already; another one is wanted with --to')
    # the anchors of places that are none are infinite, and are not kept
    require_finite({name: value for name, value in source.state.items() if not CONSTANT.fullmatch(name)})
    facts = {**_facts_of_buffers(source), **source.facts}
    if config is None:
        layers = count_decoder_layers(partial(_shape, source, 0))
        architecture = read_architecture(partial(_shape, source, layers), facts)
        ours = _to_ours(source, build(Config(dict(model=architecture.model_config()))), layers)
    else:
        model = build(config)
        _check_facts(facts, facts_of(model))
        facts = {**facts, **facts_of(model)}
        layers = model.decoder.num_layers
        ours = _to_ours(source, model, layers)
        architecture = read_architecture(partial(_shape, source, layers), facts)
    if architecture.first_stride != 8:
        raise UsageError(
            f'the finest level has stride {architecture.first_stride}; only from 8 on do the formats agree about the '
            'proposals of a level'
        )
    found = replace(source, form=target, facts=facts, state=ours, config={})
    if source.form != 'mmscale':
        backbone = [name for name in source.state if name.startswith(('backbone.', 'model.backbone.'))]
        found.frozen_norms = not any(name.endswith(COUNTER) for name in backbone)
    if found.classes is None and source.form != 'hf':
        found.classes = coco_classes(architecture.num_classes)
    if found.classes is not None and len(found.classes) != architecture.num_classes:
        found.classes = None
    return (found if target == 'mmscale' else _to_theirs(found, architecture)), architecture


def build(config: Config) -> RTDETR:
    """Build a config's model on no device: names and shapes without weights.

    Args:
        config (Config): With ``model``; its ``default_scope`` defaults to 'mmdet'.

    Raises:
        UsageError: If it is no RT-DETR.
    """
    model = build_without_weights(config)
    if not isinstance(model, RTDETR):
        raise UsageError(
            f"config '{config.filename}' has a {type(model).__name__} as its model; it should be an RTDETR"
        )
    return model


def build_without_weights(config: Config) -> nn.Module:
    """Build a config's model on no device.

    Args:
        config (Config): With ``model``; its ``default_scope`` defaults to 'mmdet'.
    """
    with torch.device('meta'), DefaultScope.overwrite_default_scope(config.get('default_scope') or 'mmdet'):
        return MODELS.build(config.model)


def _shape(source: Checkpoint, layers: int, name: str) -> tuple[int, ...] | None:
    """Shape of a weight by our name, wholly in the source as one tensor; None if it is not there."""
    names = _names(source.form, name, layers)
    value = source.state.get(names[0]) if len(names) == 1 else None
    return None if value is None else tuple(value.shape)


def _names(form: str, name: str, layers: int) -> list[str]:
    return [name] if form == 'mmscale' else names_in(form, name, layers)


def _facts_of_buffers(source: Checkpoint) -> dict:
    """Points of a level, as the second version's buffers say.

    Raises:
        UsageError: If they are not the same on all levels.
    """
    for name, value in source.state.items():
        if POINTS.fullmatch(name):
            numbers = [round(1 / share) if share > 0 else 0 for share in value.flatten().tolist()]
            points = max(numbers)
            levels, rest = divmod(len(numbers), points or 1)
            if rest or set(numbers) != {points} or not points:
                raise UsageError(
                    f"'{name}' says that the levels have different numbers of sampling points "
                    f'({_points_of_levels(numbers)}); RT-DETR here has the same on each'
                )
            weights = source.state.get(name.rpartition('.')[0] + '.attention_weights.weight')
            heads = {} if weights is None else dict(decoder_heads=len(weights) // (levels * points))
            return dict(num_points=points, **heads)
    return {}


def _points_of_levels(numbers: list[int]) -> str:
    found = []
    while numbers and numbers[0] > 0:
        found.append(str(numbers[0]))
        numbers = numbers[numbers[0] :]
    return ', '.join(found)


def _check_facts(facts: dict, wanted: dict) -> None:
    """Refuse a config whose attention differs from what the checkpoint says; the shapes may agree all the same."""
    for name in ('encoder_heads', 'decoder_heads', 'num_points'):
        if facts.get(name, wanted.get(name)) != wanted.get(name):
            raise UsageError(f'the checkpoint has {name}={facts[name]}, the model of the config {wanted.get(name)}')


def _to_ours(source: Checkpoint, model: nn.Module, layers: int) -> dict[str, Tensor]:
    """The weights in our names, once they are found to be exactly the model's."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    names = {name: _names(source.form, name, layers) or [f'{name} (ours only)'] for name in shapes}
    _check_fit(source, shapes, names)
    ours = {}
    for name, parts in names.items():
        values = [source.state[part] for part in parts if part in source.state]
        if len(values) > 1:
            ours[name] = torch.cat(values)
        else:  # a counter may be absent
            ours[name] = values[0].clone() if values else torch.zeros((), dtype=torch.long)
    return ours


def _check_fit(source: Checkpoint, shapes: dict[str, tuple], names: dict[str, list[str]]) -> None:
    """Refuse what is not exactly the model's; one message lists all of it in the names of the source."""
    wanted = {}
    for name, parts in names.items():
        shape = shapes[name]
        wanted |= dict.fromkeys(parts, (shape[0] // len(parts), *shape[1:]) if len(parts) > 1 else shape)
    given = {name: tuple(value.shape) for name, value in source.state.items()}
    if source.form != 'mmscale':
        given = {name: shape for name, shape in given.items() if not CONSTANT.fullmatch(name)}
    refuse_misfit(source.form, given, wanted, optional=COUNTER)


def refuse_misfit(
    form: str, given: dict[str, tuple], wanted: dict[str, tuple], optional: str | tuple[str, ...] = ()
) -> None:
    """Refuse weights that are not exactly those that are wanted; one message lists all of it.

    Args:
        form (str): What the given weights are of, for the message.
        given (dict[str, tuple]): Shapes by name.
        wanted (dict[str, tuple]): Likewise.
        optional (str | tuple[str]): Ends of the names of weights that may be absent. Defaults to ().

    Raises:
        UsageError: If weights are missing, of another shape, or of no use.
    """
    missing = [name for name in wanted if name not in given and not name.endswith(optional)]
    unused = [name for name in given if name not in wanted]
    reshaped = [
        f'{name} {given[name]} instead of {shape},' for name, shape in wanted.items() if given.get(name, shape) != shape
    ]
    found = [('missing', _grouped(missing)), ('unused', _grouped(unused)), ('of another shape', reshaped)]
    counts = [len(missing), len(unused), len(reshaped)]
    if any(counts):
        listed = [
            f'{count} {what}: {" ".join(part).rstrip(",")}'
            for count, (what, part) in zip(counts, found, strict=True)
            if count
        ]
        raise UsageError(f'the checkpoint ({form}) does not fit the model, so nothing was written: {"; ".join(listed)}')


def _to_theirs(found: Checkpoint, architecture: Architecture) -> Checkpoint:
    """Our weights in the names of the target."""
    form, layers = found.form, architecture.decoder_layers
    theirs, ours_only = {}, []
    for name, value in found.state.items():
        if found.frozen_norms and name.startswith('backbone.') and name.endswith(COUNTER):
            continue
        names = names_in(form, name, layers)
        if not names:
            ours_only.append(name)
        parts = [part.clone() for part in value.chunk(len(names))] if len(names) > 1 else [value]
        theirs |= dict(zip(names, parts, strict=False))
    if ours_only:
        raise UsageError(
            f'the format {form} has no place for {len(ours_only)} of the weights, so nothing was written: '
            + ' '.join(_grouped(ours_only))
        )
    config = {}
    if form == 'hf':
        config = huggingface.config_of(architecture, found.classes, found.frozen_norms)
    elif form == 'official-v2':
        theirs.update(_buffers_of_v2(architecture))
    return replace(found, state=theirs, config=config)


def _buffers_of_v2(architecture: Architecture) -> dict[str, Tensor]:
    """What the official second version stores beside the weights, for images of its size."""
    strides = [8 * 2**i for i in range(len(architecture.in_channels))]
    anchors, valid = proposal_anchors([(SIZE // stride,) * 2 for stride in strides], strides)
    points = architecture.num_points
    scale = torch.full((len(strides) * points,), 1 / points)
    names = [f'decoder.decoder.layers.{i}.cross_attn.num_points_scale' for i in range(architecture.decoder_layers)]
    return {
        'decoder.anchors': anchors.clone(),
        'decoder.valid_mask': valid.clone(),
        **{n: scale.clone() for n in names},
    }


def _grouped(names: list[str]) -> list[str]:
    """Names module by module.

    Example:
        >>> _grouped(['a.conv.weight', 'a.norm.weight', 'a.norm.bias'])
        ['a.conv.weight', 'a.norm.{bias,weight}']
    """
    modules: dict[str, list[str]] = {}
    for name in sorted(names):
        module, _, leaf = name.rpartition('.')
        modules.setdefault(module, []).append(leaf)
    return [
        '.'.join(filter(None, (module, leaves[0] if len(leaves) == 1 else '{' + ','.join(leaves) + '}')))
        for module, leaves in modules.items()
    ]

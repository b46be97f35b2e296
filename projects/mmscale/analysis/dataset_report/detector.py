"""What a detector's config says of the sizes and numbers of objects that it can cope with."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmdet.registry import TASK_UTILS
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmscale.evaluation import get_protocols

from ..datasets import type_name
from ..model import build_model

__all__ = ['Levels', 'Limit', 'find_levels', 'find_limits', 'find_strides']

HEADS = ('bbox_head', 'rpn_head')
PROBE = 256  # side of the blank image on which strides are measured


@dataclass(frozen=True)
class Limit:
    """A number of objects that a detector or a metric cannot exceed.

    Args:
        name (str): Where it comes from.
        value (int): The number.
        per_class (bool): Whether it holds for the objects of one class on an image, and not for all.
        trains (bool): Whether it matters in training too.
    """

    name: str
    value: int
    per_class: bool = False
    trains: bool = False


@dataclass(frozen=True)
class Levels:
    """Which level of the pyramid objects fall to.

    Args:
        rule (str): How that is decided.
        strides (tuple): The levels' strides.
        level (np.ndarray): Each object's level, (N,).
    """

    rule: str
    strides: tuple
    level: np.ndarray


def find_strides(cfg: Config, strides: Sequence[float] | None = None) -> tuple[list[float], str]:
    """The strides of the maps on which the detector predicts.

    Args:
        cfg (Config): The detector's config.
        strides (Sequence[float], optional): The user's, which win. Defaults to None.

    Returns:
        tuple[list[float], str]: The strides, and where they come from.

    Raises:
        ValueError: They are neither in the config nor can they be measured.
    """
    if strides:
        if min(strides) <= 0:
            raise ValueError(f'strides={list(strides)} should be positive numbers of pixels')
        return sorted(set(strides)), 'given'
    for name, head in _heads(cfg):
        for key in ('anchor_generator.strides', 'prior_generator.strides', 'strides', 'head_module.featmap_strides'):
            if found := _get(head, key):
                return sorted({min(_pair(stride)) for stride in found}), f'model.{name}.{key}'
    return _measure_strides(cfg), f'measured on a blank image of {PROBE} pixels, since the config does not say'


def _measure_strides(cfg: Config) -> list[float]:
    """Strides of the maps that the neck hands over, from a model with random weights."""
    try:
        model = build_model(cfg)
        with torch.no_grad():
            maps = model.extract_feat(torch.zeros(1, 3, PROBE, PROBE))
    except Exception as error:  # whatever a user's model may raise
        raise ValueError(f"the strides are not in config '{cfg.filename}' and could not be measured "
                         f'({type(error).__name__}: {error}): give them with --strides') from error  # fmt: skip
    maps = [maps] if isinstance(maps, torch.Tensor) else maps
    return sorted({round(PROBE / item.shape[-1]) for item in maps})


def find_limits(cfg: Config) -> list[Limit]:
    """The limits on objects per image, of the model and of the metrics, each once."""
    model, limits = cfg.model, []
    for key in ('num_queries', 'num_query', 'bbox_head.num_query', 'bbox_head.num_queries', 'rpn_head.num_proposals'):
        if value := _get(model, key):
            limits.append(Limit(f'model.{key}', value, trains=True))
    for key in ('test_cfg.max_per_img', 'test_cfg.rcnn.max_per_img', 'bbox_head.test_cfg.max_per_img'):
        if (value := _get(model, key)) and value > 0:
            limits.append(Limit(f'model.{key}', value))
    for key in ('val_evaluator', 'test_evaluator'):
        metrics = cfg.get(key) or []
        for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
            limits += _metric_limits(metric)
    return list(dict.fromkeys(limits))


def _metric_limits(metric: dict) -> Iterator[Limit]:
    kind = type_name(metric)
    if kind == 'DetectionMetric':
        for protocol in get_protocols(metric.get('protocols', 'coco')):
            if protocol.max_dets:
                yield Limit(f'metric {protocol.name}', protocol.max_dets[-1], per_class=protocol.kind == 'coco')
    elif kind == 'CocoMetric':
        yield Limit('metric coco', 100, per_class=True)


def find_levels(cfg: Config, sizes: np.ndarray) -> list[Levels]:
    """Which levels the detector trains on objects of these sizes; nothing where the loss decides (DETR).

    Args:
        cfg (Config): The detector's config.
        sizes (np.ndarray): Width and height after resizing, (N, 2).
    """
    found = []
    for name, head in _heads(cfg):
        if generator := _anchors(cfg, head):
            found.append(_anchor_levels(name, generator, sizes))
        elif ranges := _regress_ranges(cfg, head):
            half = sizes.max(axis=1, initial=0) / 2
            level = np.searchsorted([high for _, high in ranges[:-1]], half, side='left')
            rule = f'model.{name}: range of the distance from the centre to the farthest side'
            found.append(Levels(rule, tuple(min(_pair(stride)) for stride in head['strides']), level))
    extractor = _get(cfg.model, 'roi_head.bbox_roi_extractor')
    for item in extractor if isinstance(extractor, (list, tuple)) else [extractor]:
        if item and len(item.get('featmap_strides', ())) > 1:
            strides, finest = tuple(item['featmap_strides']), item.get('finest_scale', 56)
            roots = np.sqrt(np.maximum(sizes.prod(axis=1), 0))
            level = np.clip(np.floor(np.log2(roots / finest + 1e-6)), 0, len(strides) - 1).astype(int)
            found.append(Levels(f'RoI extractor: sqrt(area) below {2 * finest}, {4 * finest}, ...', strides, level))
            break
    return found


def _anchors(cfg: Config, head: dict):
    """A head's anchors, None if it has points."""
    if not head.get('anchor_generator'):
        return None
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmdet'):
        generator = TASK_UTILS.build(head['anchor_generator'])
    return generator if hasattr(generator, 'base_anchors') else None


def _anchor_levels(name: str, generator, sizes: np.ndarray) -> Levels:
    """The level whose anchor shape fits best, wherever it stands."""
    best = []
    for anchors in generator.base_anchors:
        corners = anchors.double().numpy()
        shapes = (corners[:, 2:] - corners[:, :2])[None]  # (1, A, 2)
        inside = np.minimum(sizes[:, None], shapes).prod(axis=2)
        union = sizes.prod(axis=1)[:, None] + shapes.prod(axis=2) - inside
        best.append((inside / np.maximum(union, 1e-12)).max(axis=1))
    strides = tuple(min(_pair(stride)) for stride in generator.strides)
    return Levels(f'model.{name}: anchor whose shape fits best', strides, np.argmax(best, axis=0))


def _regress_ranges(cfg: Config, head: dict) -> Sequence | None:
    """FCOS's ranges, from the config or the head's default."""
    if 'strides' not in head:
        return None
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmdet')
    with scope, MODELS.switch_scope_and_registry(None) as registry:
        kind = registry.get(head['type'])
    default = inspect.signature(kind).parameters.get('regress_ranges') if kind else None
    ranges = head.get('regress_ranges') or (default.default if default else None)
    return ranges if ranges and len(ranges) == len(head['strides']) else None


def _heads(cfg: Config) -> Iterator[tuple[str, dict]]:
    """The dense heads, the detector's own or those of one inside it."""
    model = cfg.model.get('detector') or cfg.model
    for name in HEADS:
        for head in model[name] if isinstance(model.get(name), (list, tuple)) else [model.get(name)]:
            if head:
                yield name, head


def _get(node, key: str):
    """A value by dotted key, None where the config has none."""
    for part in key.split('.'):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _pair(stride) -> tuple:
    return tuple(stride) if isinstance(stride, (list, tuple)) else (stride,)

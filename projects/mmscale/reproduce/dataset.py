"""Another data layer under any row: its data, metrics and classes; the row's own augmentation, sizes and batches."""

import difflib
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict

from mmscale.paths import config_root

__all__ = ['WrongKindError', 'data_layers', 'resize_images', 'swap_dataset']

SPLITS = ('train', 'val', 'test')
CLASS_COUNTS = ('num_classes', 'num_things_classes', 'num_stuff_classes')
WEIGHT_PER_CLASS = ('YOLOv5Head', 'YOLOv7Head')  # whose class loss weighs in proportion to the number of classes


class WrongKindError(ValueError):
    """A data layer without the annotations that a row trains on."""


def data_layers() -> list[str]:
    """Names of the data layers: the files of ``configs/_base_/datasets``."""
    return sorted(file.stem for file in (config_root() / '_base_' / 'datasets').glob('*.py'))


def swap_dataset(cfg: Config, name: str) -> None:
    """Put a data layer in the place of a config's own.

    The recipe stays the config's: its pipelines (augmentation and image size), batch size, samplers and schedule. From
    the layer come the data sets, the evaluators, and the class counts, which are set wherever the model names one; the
    class losses of YOLOv5 and v7, whose weights are in proportion to the count, follow it. A config that reports every
    class (``classwise``) still does.
    A ``RepeatDataset`` or ``ConcatDataset`` of the config goes with its data; one that mixes images
    (``MultiImageMixDataset``) belongs to the pipeline and stays.

    Args:
        cfg (Config): Changed in place.
        name (str): A name of :func:`data_layers`.

    Raises:
        ValueError: If there is no such layer, or it is of another kind (boxes, masks, panoptic or semantic maps) than
            the pipeline loads: its annotations would be missing, or its evaluator would ask for what the model lacks.
    """
    if name not in data_layers():
        near = difflib.get_close_matches(name, data_layers(), n=1)
        raise ValueError(
            f"there is no data layer '{name}'"
            + (f", did you mean '{near[0]}'?" if near else f'; there is {", ".join(data_layers())}')
        )
    layer = Config.fromfile(config_root() / '_base_' / 'datasets' / f'{name}.py', import_custom_modules=False)
    for split in SPLITS:
        loader, source = cfg.get(f'{split}_dataloader'), layer.get(f'{split}_dataloader')
        if not loader:
            continue
        loader.dataset = _swapped(loader.dataset, source.dataset, name)
        if split != 'train':
            cfg[f'{split}_evaluator'] = _evaluator(cfg.get(f'{split}_evaluator'), layer[f'{split}_evaluator'])
    for key in ('dataset_type', 'data_root', 'metainfo', *CLASS_COUNTS):  # of no effect, but a dump should not mislead
        if key in layer:
            cfg[key] = deepcopy(layer[key])
        else:
            cfg.pop(key, None)
    counts = {key: layer[key] for key in CLASS_COUNTS if key in layer}
    _weigh_classes(cfg.model, counts)
    _set_classes(cfg.model, counts)


def resize_images(cfg: Config, scale: tuple[int, int]) -> None:
    """Set the ``scale`` of every transform that resizes, in all pipelines; batches are resized no more.

    Args:
        cfg (Config): Changed in place.
        scale (tuple[int, int]): Width and height. What resizes whole batches in ``data_preprocessor.batch_augments``,
            as RT-DETR's recipe does, is left out.

    Raises:
        ValueError: If no transform has a scale; or if a mosaic of masks would not be square, which MMYOLO's cannot be.
    """
    found = 0
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if 'switch_pipeline' in hook]
    pipelines = [cfg.get(f'{split}_dataloader') for split in SPLITS]
    pipelines += [{'pipeline': hook.switch_pipeline} for hook in hooks]
    for pipeline in pipelines:
        for transform in _transforms(pipeline or {}):
            kind = str(transform['type']).rpartition('.')[2]
            key = dict(RandomChoiceResize='scales').get(kind, 'scale')
            if 'Resize' in kind and key in transform:
                transform[key] = [tuple(scale)] if key == 'scales' else tuple(scale)
                found += 1
            elif kind.startswith('Mosaic'):
                if scale[0] != scale[1] and any(step.get('with_mask') for step in transform.get('pre_transform') or ()):
                    raise ValueError(
                        f'a size of {scale[0]}x{scale[1]} is not square, and the mosaic of masks exchanges the sides '
                        'of masks then: choose a square one'
                    )
                transform.img_scale = tuple(scale)
            elif kind.endswith('RandomAffine') and any(transform.get('border') or ()):  # what it cuts off a mosaic
                transform.border = (-scale[0] // 2, -scale[1] // 2)
    if not found:
        raise ValueError('no transform of the pipelines has a scale to set')
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if augments := preprocessor.get('batch_augments'):
        preprocessor.batch_augments = [step for step in augments if 'Resize' not in str(step['type'])] or None


def _swapped(own: ConfigDict, source: ConfigDict, name: str) -> ConfigDict:
    """The layer's data set with the pipeline of the config's own."""
    if 'MultiImageMix' in str(own.type):
        return ConfigDict({**own, 'dataset': _swapped(own.dataset, source, name)})
    own_leaf, leaves = _leaf_sets(own)[0], _leaf_sets(new := deepcopy(source))
    pipeline = deepcopy(own_leaf.get('pipeline') or own.get('pipeline'))
    same_file = all(own_leaf.get(key) == leaves[0].get(key) for key in ('data_root', 'ann_file'))
    if not (same_file and _pastes(pipeline)):  # whose masks the file has, though the layer does not load them
        _check_annotations(pipeline, leaves[0].pipeline, name)
    for leaf in leaves:
        leaf.pipeline = pipeline
    return new


def _evaluator(own: Any, source: Any) -> Any:
    """The layer's evaluator, which reports every class if the config's own does."""
    new = deepcopy(source)
    if isinstance(own, dict) and isinstance(new, dict) and own.get('classwise') and own.type == new.type:
        new.classwise = True
    return new


def _leaf_sets(dataset: ConfigDict) -> list[ConfigDict]:
    """The data sets within wrappers."""
    if 'datasets' in dataset:
        return [leaf for item in dataset.datasets for leaf in _leaf_sets(item)]
    return _leaf_sets(dataset.dataset) if 'dataset' in dataset else [dataset]


def _check_annotations(pipeline: list, layers: list, name: str) -> None:
    """The layer has what the pipeline loads; an evaluator of the layer gets the ground truth that it reads."""
    if _kind(layers) == 'boxes' and _pastes(pipeline):
        for step in _annotations(_transforms({'pipeline': pipeline})):  # without masks, copy-paste passes images on
            step.with_mask = False
    wanted, had = _annotations(pipeline), _annotations(layers)
    if wanted and had and (ours := _kind(pipeline)) != (theirs := _kind(layers)):
        raise WrongKindError(f"the row is of {ours}, and the data layer '{name}' of {theirs}")
    if not wanted and had:  # before the step that packs
        pipeline.insert(len(pipeline) - 1, deepcopy(had[0]))


def _pastes(pipeline: list) -> bool:
    """Whether masks are loaded for copy-paste alone."""
    return any(str(step.type).endswith('CopyPaste') for step in pipeline)


def _annotations(pipeline: list) -> list[dict]:
    return [step for step in pipeline if 'LoadAnnotations' in str(step.type) or 'Panoptic' in str(step.type)]


def _kind(pipeline: list) -> str:
    """What a pipeline loads beside images."""
    if any('PackSegInputs' in str(step.type) for step in pipeline):
        return 'semantic maps'
    steps = _annotations(pipeline)
    if any('Panoptic' in str(step.type) or step.get('with_seg') for step in steps):
        return 'panoptic maps'
    return 'masks' if any(step.get('with_mask') for step in steps) else 'boxes'


def _weigh_classes(model: ConfigDict, counts: dict[str, int]) -> None:
    """Keep the weight per class of the losses which are in proportion to the number of classes."""
    head = model.get('bbox_head') or {}
    if str(head.get('type')).rpartition('.')[2] in WEIGHT_PER_CLASS and 'num_classes' in counts:
        head.loss_cls.loss_weight *= counts['num_classes'] / head.head_module.num_classes


def _set_classes(node: Any, counts: dict[str, int]) -> None:
    """Set the class counts wherever a part of the model names one; a backbone's are its classifier's."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in counts and isinstance(value, int):
                node[key] = counts[key]
            elif key not in ('backbone', 'data_preprocessor'):
                _set_classes(value, counts)
    elif isinstance(node, (list, tuple)):
        for item in node:
            _set_classes(item, counts)


def _transforms(node: Any) -> list[dict]:
    """Every transform of a data loader's pipelines, nested ones included."""
    found = []
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ('pipeline', 'transforms', 'pre_transform') and isinstance(value, (list, tuple)):
                for step in value:
                    steps = step if isinstance(step, (list, tuple)) else [step]
                    found += [item for item in steps if isinstance(item, dict) and 'type' in item]
            found += _transforms(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            found += _transforms(item)
    return found

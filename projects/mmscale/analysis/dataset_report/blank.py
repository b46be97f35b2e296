"""A data set that runs its pipeline's geometry on blank images: object sizes after resizing without reading an image.

The pipeline's own transforms run, also those of wrappers (Mosaic, MixUp): the image is replaced by a blank one of the
annotated size, what does not move boxes is left out. Nothing is computed twice, so nothing can disagree with training.
"""

from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
from mmcv.transforms import BaseTransform

from ..datasets import type_name

__all__ = ['BlankImage', 'BlankPipeline', 'blank_dataset']

# Transforms whose outcome for the boxes depends on the image's size alone.
FIXED = {
    'CenterCrop', 'Compose', 'FixScaleResize', 'FixShapeResize', 'LetterResize', 'Pad', 'Resize',
    'YOLOv5KeepRatioResize'
}  # fmt: skip
RANDOM = {
    'CachedMixUp', 'CachedMosaic', 'Expand', 'MinIoURandomCrop', 'MixUp', 'Mosaic', 'Mosaic9', 'PPYOLOERandomCrop',
    'RandomAffine', 'RandomApply', 'RandomCenterCropPad', 'RandomChoice', 'RandomChoiceResize', 'RandomCrop',
    'RandomOrder', 'RandomResize', 'RandomShift', 'ResizeShortestEdge', 'Rotate', 'ShearX', 'ShearY', 'TranslateX',
    'TranslateY', 'YOLOXMixUp', 'YOLOv5MixUp', 'YOLOv5RandomAffine'
}  # fmt: skip
# Transforms that change no box's size; FilterAnnotations would hide the objects that are asked for.
WITHOUT_EFFECT = {
    'AutoContrast', 'Brightness', 'Color', 'ColorTransform', 'Contrast', 'CutOut', 'Equalize', 'FilterAnnotations',
    'Invert', 'Normalize', 'PPYOLOERandomDistort', 'PhotoMetricDistortion', 'Posterize', 'RandomErasing', 'RandomFlip',
    'RandomGrayscale', 'RemoveDataElement', 'Sharpness', 'Solarize', 'SolarizeAdd', 'YOLOXHSVRandomAug',
    'YOLOv5HSVRandomAug'
}  # fmt: skip
IMAGE_LOADERS = {'LoadImageFromFile', 'LoadImageFromNDArray', 'LoadMultiChannelImageFromFiles'}
OVERSAMPLERS = ('RepeatDataset', 'ClassBalancedDataset')
NEEDS_FLOAT = 'RandomCenterCropPad'  # gets it from PhotoMetricDistortion otherwise
MASK_OPTIONS = {'use_mask_refine': False, 'recompute_bbox': False}


class BlankImage(BaseTransform):
    """Puts a black image of the annotated size where the pipeline would load one.

    Required keys: ``height``, ``width``. Added keys: ``img``, ``img_shape``, ``ori_shape``.

    Args:
        to_float32 (bool): Whether the image is of float32, which some transforms insist on. Defaults to False.
    """

    def __init__(self, to_float32: bool = False) -> None:
        self.to_float32 = to_float32

    def transform(self, results: dict) -> dict:
        """Adds the image.

        Args:
            results (dict): The data info.
        """
        if not results.get('height') or not results.get('width'):
            raise ValueError(f"image '{results.get('img_path')}' has no width and height in its annotations")
        shape = int(results['height']), int(results['width'])
        image = np.zeros((*shape, 3), dtype=np.float32 if self.to_float32 else np.uint8)
        return {**results, 'img': image, 'img_shape': shape, 'ori_shape': shape}


@dataclass
class BlankPipeline:
    """What became of the pipelines of a data set.

    Args:
        steps (list[str]): The transforms that run.
        unknown (list[str]): Those left out because it is not known what they do to boxes.
        wrappers (list[str]): Wrappers left out, which only repeat images.
    """

    steps: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    wrappers: list[str] = field(default_factory=list)

    @property
    def random(self) -> bool:
        """bool: Whether an object's size differs from draw to draw."""
        return any(step in RANDOM for step in self.steps)

    def convert(self, pipeline: list, load: bool = True) -> list:
        """The pipeline on blank images.

        Args:
            pipeline (list[dict]): The pipeline's config.
            load (bool): Whether it is one that loads images, and not a wrapper's or an inner one. Defaults to True.
        """
        loads = any(type_name(step) in IMAGE_LOADERS for step in pipeline)
        steps = [] if loads or not load else _blank_loaders(False)
        for step in pipeline:
            name = type_name(step)
            if name in IMAGE_LOADERS:
                steps += _blank_loaders(bool(step.get('to_float32')) or NEEDS_FLOAT in map(type_name, pipeline))
            elif name in FIXED | RANDOM:
                self.steps.append(name)
                steps.append(self._convert_step(step))
            elif not name.startswith(('Load', 'Pack')) and name not in WITHOUT_EFFECT and name not in self.unknown:
                self.unknown.append(name)
        return steps

    def _convert_step(self, step: dict) -> dict:
        """A transform whose inner pipelines are converted too, without masks."""
        step = {key: MASK_OPTIONS.get(key, value) for key, value in step.items()}
        for key in ('transforms', 'pre_transform'):
            inner = step.get(key)
            if isinstance(inner, (list, tuple)):
                many = inner and isinstance(inner[0], (list, tuple))
                step[key] = [self.convert(part, False) for part in inner] if many else self.convert(inner, False)
        return step


def blank_dataset(cfg: dict) -> tuple[dict, BlankPipeline]:
    """A data set's config with its pipelines on blank images, and without wrappers that only repeat images.

    Args:
        cfg (dict): The data set's config, wrapped or not.

    Returns:
        tuple[dict, BlankPipeline]: The new config, and what became of the transforms.

    Example:
        >>> inner = dict(type='CocoDataset', pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=9)])
        >>> new, pipeline = blank_dataset(dict(type='RepeatDataset', times=3, dataset=inner))
        >>> [step['type'] for step in new['pipeline']][1:], pipeline.wrappers
        (['mmdet.LoadAnnotations', 'Resize'], ['RepeatDataset'])
    """
    pipeline = BlankPipeline()

    def convert(node: dict) -> dict:
        if type_name(node) in OVERSAMPLERS:
            pipeline.wrappers.append(type_name(node))
            return convert(node['dataset'])
        node = dict(node)
        if 'datasets' in node:
            node['datasets'] = [convert(inner) for inner in node['datasets']]
        elif 'dataset' in node:
            node['dataset'] = convert(node['dataset'])
        if 'pipeline' in node or 'dataset' not in node and 'datasets' not in node:
            wraps = 'dataset' in node or 'datasets' in node
            node['pipeline'] = pipeline.convert(node.get('pipeline') or [], load=not wraps)
        return node

    return convert(deepcopy(cfg)), pipeline


def _blank_loaders(to_float32: bool) -> list[dict]:
    return [dict(type=BlankImage, to_float32=to_float32), dict(type='mmdet.LoadAnnotations', with_bbox=True)]

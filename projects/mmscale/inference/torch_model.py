"""A detector of MMDetection in PyTorch: a config and a checkpoint, through the config's own test pipeline.

This does what MMDetection's ``DetInferencer`` is for, and differs where that goes wrong: weights that do not fit the
model are an error and not a warning; class names that nobody states are numbers and not COCO's; an image is decoded
once; a file that cannot be decoded does not end the run.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import mask2bbox
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmscale import stack
from mmscale.analysis.datasets import find_pipelines, type_name
from mmscale.analysis.detector import check_device
from mmscale.analysis.model import build_model, load_config
from mmscale.datasets.transforms import LoadImageFromFile
from mmscale.engine.checkpoint import compare, load_checkpoint
from mmscale.engine.cli import UsageError, apply_options, say

from .detections import Detections, clip_boxes, encode_masks, keep_above
from .reading import Unreadable

__all__ = ['TorchModel']

OF_LOADER = ('to_float32', 'color_type', 'imdecode_backend', 'backend_args')


class TorchModel:
    """A config's detector with a checkpoint's weights.

    Args:
        config (str | PathLike | Config): The config, or its file; ``mmscale::fine/...`` for one of a package.
        checkpoint (str | PathLike): A file, or an address that MMEngine can load.
        device (str, optional): 'cpu', 'cuda' or 'cuda:1'. Defaults to None: a GPU where there is one.
        cfg_options (dict, optional): Overrides of the config by dotted key. Defaults to None.
        allow_partial (bool): Whether to go on if the weights do not fit the model. Defaults to False.

    Attributes:
        name (str): Config and checkpoint, for a report.
        classes (tuple[str, ...]): Names of the classes; empty where neither checkpoint nor config knows them.
        loader (LoadImageFromFile): How image files are decoded for it.
        fixed_batch (int, optional): None: a batch may have any number of images.

    Raises:
        FileNotFoundError: If config or checkpoint does not exist.
        UsageError: If the checkpoint belongs to another model, the config has no test pipeline, or mmcv was built
            without the GPU that is asked for.
        ValueError: If the checkpoint is damaged, or the device is unknown or absent.
    """

    fixed_batch = None

    def __init__(
        self,
        config: str | PathLike | Config,
        checkpoint: str | PathLike,
        device: str | None = None,
        cfg_options: dict | None = None,
        allow_partial: bool = False,
    ) -> None:
        device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        check_device(device)
        if device.startswith('cuda') and (fault := stack.mmcv_without_gpu()):
            raise UsageError(fault.sentence)
        cfg = load_config(config)
        apply_options(cfg, cfg_options)
        self.name = f'{cfg.filename or cfg.model.type}, {checkpoint}'
        self._scope = cfg.get('default_scope') or 'mmdet'
        self.loader, self._pipeline = self._build_pipeline(cfg)
        loaded = _load(checkpoint)
        model = build_model(cfg)
        if misfit := compare(model, loaded):
            if not allow_partial:
                raise UsageError(
                    f"checkpoint '{checkpoint}' belongs to another model than config '{cfg.filename}': {misfit}; "
                    '--allow-partial goes on all the same'
                )
            say(f'--allow-partial: {misfit}')
        self.classes = _find_classes(loaded, cfg, model)
        self.model = model.to(device)

    def _build_pipeline(self, cfg: Config) -> tuple[LoadImageFromFile, Compose]:
        """The test pipeline in two parts: its loader, and what follows but annotations."""
        pipelines = find_pipelines((cfg.get('test_dataloader') or {}).get('dataset'))
        if not pipelines:
            raise UsageError(f"config '{cfg.filename}' has no test pipeline (test_dataloader.dataset.pipeline)")
        loader, *rest = pipelines[0]
        if type_name(loader) != 'LoadImageFromFile':
            raise UsageError(
                f"config '{cfg.filename}': the test pipeline starts with {type_name(loader)}, and should with "
                'LoadImageFromFile'
            )
        rest = [step for step in rest if not (type_name(step).startswith('Load') and 'Annotations' in type_name(step))]
        with DefaultScope.overwrite_default_scope(self._scope):
            return LoadImageFromFile(**{key: loader[key] for key in OF_LOADER if key in loader}), Compose(rest)

    def prepare(self, image: np.ndarray, path: str | PathLike, number: int = 0) -> dict:
        """Pass an image through the pipeline.

        Args:
            image (np.ndarray): As :attr:`loader` makes it, or a frame of a video.
            path (str | PathLike): Its file.
            number (int): Tells images apart, where a pipeline wants that. Defaults to 0.

        Returns:
            dict: ``inputs`` and ``data_samples``, as the pipeline packs them.

        Raises:
            Unreadable: If OpenCV cannot do with it what the pipeline says (make smaller what is one pixel wide).
        """
        image = self._like_loaded(image)
        size = image.shape[:2]
        data = dict(img=image, img_path=str(path), img_id=number, img_shape=size, ori_shape=size)
        try:
            data = self._pipeline(data)
        except cv2.error as error:
            gist = str(error.err or error).splitlines()[0]
            raise Unreadable(
                f"image '{path}' of {size[1]}x{size[0]} pixels is nothing for the pipeline ({gist})"
            ) from error
        if data is None:
            raise Unreadable(f"image '{path}' is dropped by the config's test pipeline")
        return data

    def _like_loaded(self, image: np.ndarray) -> np.ndarray:
        """A frame as the loader would have made it of a file."""
        if self.loader.color_type.startswith('grayscale') and image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        return image.astype(np.float32) if self.loader.to_float32 else image

    def fits_batch(self, first: dict, other: dict) -> bool:
        """Whether two images may share a batch: always, the data pre-processor pads them."""
        return True

    def detect(self, batch: Sequence[dict], score_thr: float) -> list[Detections]:
        """Detect as ``tools/test.py`` does, by the model's ``test_step``.

        Args:
            batch (Sequence[dict]): Images as :meth:`prepare` makes them.
            score_thr (float): Lowest score of a detection.

        Raises:
            UsageError: If the model gives no boxes.
        """
        data = {key: [image[key] for image in batch] for key in ('inputs', 'data_samples')}
        with torch.no_grad(), DefaultScope.overwrite_default_scope(self._scope):
            return [self._to_detections(sample, score_thr) for sample in self.model.test_step(data)]

    def _to_detections(self, sample: DetDataSample, score_thr: float) -> Detections:
        """Results of one image that reach the score."""
        if 'pred_instances' not in sample:
            keys = sample.keys()
            given = ', '.join(key for key in keys if key.startswith('pred_')) or 'no prediction'
            raise UsageError(f'{type(self.model).__name__} gives {given} and no boxes: a detector is wanted')
        found = sample.pred_instances.cpu()
        masks = found.get('masks')
        boxes = get_box_tensor(found.bboxes) if 'bboxes' in found else None
        if masks is not None:
            masks = torch.as_tensor(masks if isinstance(masks, (torch.Tensor, np.ndarray)) else masks.to_ndarray())
            if boxes is None or not boxes.any():  # a head without boxes fills them with zeros
                boxes = mask2bbox(masks.bool())
        boxes, scores = boxes.numpy(), found.scores.numpy()
        kept = keep_above(boxes, scores, score_thr)
        return Detections(
            clip_boxes(boxes[kept], sample.ori_shape[:2]),
            scores[kept],
            found.labels.numpy()[kept],
            None if masks is None else encode_masks(masks.numpy()[kept]),
        )


def _load(checkpoint: str | PathLike) -> dict:
    """A checkpoint, from a file or from an address."""
    if '://' in str(checkpoint):
        return CheckpointLoader.load_checkpoint(str(checkpoint), 'cpu')
    return load_checkpoint(Path(checkpoint).expanduser(), 'cpu')


def _find_classes(checkpoint: dict, cfg: Config, model: nn.Module) -> tuple[str, ...]:
    """Names of the classes: the checkpoint's, else those of the config's test set if they are as many as the head's."""
    meta = checkpoint.get('meta') or {}
    for stated in ((meta.get('dataset_meta') or {}).get('classes'), meta.get('CLASSES')):  # MMDetection 3, and 2
        if stated:
            return _names(stated)
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset and 'metainfo' not in dataset:
        dataset = dataset['dataset']
    stated = (dataset.get('metainfo') or {}).get('classes')
    if not stated and 'type' in dataset:
        with DATASETS.switch_scope_and_registry(cfg.get('default_scope') or 'mmdet') as registry:
            kind = registry.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
        stated = getattr(kind, 'METAINFO', {}).get('classes')
    names, number = _names(stated or ()), _number_of_classes(model)
    if names and number not in (None, len(names)):
        say(
            f"warning: the checkpoint does not name its classes, and the config's test set has {len(names)} where the "
            f'model has {number}: classes are called by their numbers'
        )
        return ()
    return names


def _names(stated: str | Sequence[str]) -> tuple[str, ...]:
    return (stated,) if isinstance(stated, str) else tuple(map(str, stated))


def _number_of_classes(model: nn.Module) -> int | None:
    """How many classes the box head tells apart; None if it does not say."""
    head = getattr(getattr(model, 'roi_head', None), 'bbox_head', None) or getattr(model, 'bbox_head', None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    return getattr(head, 'num_classes', None)

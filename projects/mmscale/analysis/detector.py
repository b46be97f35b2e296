"""A detector with given weights and real images for it, as its config's test pipeline makes them."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmscale.engine.checkpoint import compare, load_checkpoint
from mmscale.registry import MODELS

from .datasets import build_dataset, find_pipelines, type_name
from .model import build_model, load_config, random_batch

__all__ = ['Detector', 'Sample', 'load_detector', 'read_images', 'read_random', 'read_test_set']

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


@dataclass
class Detector:
    """A detector and where it comes from.

    Attributes:
        cfg (Config): Its config.
        model (nn.Module): In eval mode.
        weights (str): What its weights are, for a report.
        classes (tuple[str, ...]): Names of its classes, of the checkpoint or the test set; empty if unknown.
    """

    cfg: Config
    model: nn.Module
    weights: str
    classes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """str: The config's file name without its suffix; the type of the model where there is no file."""
        if not self.cfg.filename:
            return str(self.cfg.model.type).rpartition('.')[-1]
        return Path(self.cfg.filename).stem


@dataclass
class Sample:
    """One image on its way into a detector.

    Attributes:
        name (str): Its file's name.
        inputs (Tensor): After the model's data pre-processor, ``(1, C, H, W)``, padded at the right and bottom.
        data_samples (list): Its data sample.
        picture (np.ndarray): What the pipeline made of it, RGB, uint8, ``(h, w, 3)``, not padded.
    """

    name: str
    inputs: Tensor
    data_samples: list
    picture: np.ndarray


def load_detector(
    config: str | PathLike | Config,
    checkpoint: str | PathLike | None = None,
    *,
    pretrained: bool = False,
    cfg_options: dict | None = None,
    allow_partial: bool = False,
    device: str = 'cpu',
    seed: int = 0,
) -> Detector:
    """Build a detector with weights.

    Args:
        config (str | PathLike | Config): As :func:`mmscale.analysis.model.load_config` takes it.
        checkpoint (str | PathLike, optional): A local file. Defaults to None.
        pretrained (bool): Whether the config's own ``init_cfg`` gives the weights, which may be downloaded. Defaults to
            False: without a checkpoint they are random, and nothing is downloaded.
        cfg_options (dict, optional): Overrides of the config by dotted key. Defaults to None.
        allow_partial (bool): Whether to go on if the checkpoint does not fit the model. Defaults to False.
        device (str): Where the model is put. Defaults to 'cpu'.
        seed (int): Of random weights. Defaults to 0.

    Raises:
        FileNotFoundError: If the config or the checkpoint does not exist.
        ValueError: If the checkpoint is damaged or belongs to another model, pretrained weights cannot be had, or the
            device is unknown or absent.
    """
    if checkpoint is not None and pretrained:
        raise ValueError(f"checkpoint '{checkpoint}' and pretrained weights exclude each other: give one of them")
    check_device(device)
    cfg = load_config(config, cfg_options)
    classes = _classes(cfg.get('test_dataloader') or {})
    if pretrained:
        model, weights = _build_pretrained(cfg, seed), "the config's pretrained weights"
    else:
        model, weights = build_model(cfg, seed=seed), f'random weights (seed {seed})'
    if checkpoint is not None:
        loaded = load_checkpoint(checkpoint, 'cpu')
        misfit = compare(model, loaded)
        if misfit and not allow_partial:
            raise ValueError(
                f"checkpoint '{checkpoint}' belongs to another model than config '{cfg.filename}': {misfit}; "
                '--allow-partial goes on all the same'
            )
        weights = f"weights of '{Path(checkpoint).name}'" + (f', except {misfit}' if misfit else '')
        meta = loaded.get('meta')
        classes = tuple(((meta or {}).get('dataset_meta') or {}).get('classes') or classes)
    return Detector(cfg, model.to(device).eval(), weights, classes)


def check_device(device: str) -> None:
    """Refuse a device that PyTorch does not know or have.

    Raises:
        ValueError: Names the device.
    """
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"device '{device}' cannot be used ({str(error).splitlines()[0]}): choose cpu or cuda"
        ) from error


def _build_pretrained(cfg: Config, seed: int) -> nn.Module:
    """The config's model, initialised as for training."""
    scope = cfg.get('default_scope') or 'mmdet'
    before = logging.root.manager.disable
    with torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope(scope):
        torch.manual_seed(seed)
        logging.disable(logging.WARNING)
        try:
            model = MODELS.build(cfg.model)
            model.init_weights()
        except (ImportError, OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"pretrained weights of config '{cfg.filename}' cannot be had: {reason}") from error
        finally:
            logging.disable(before)
    return revert_sync_batchnorm(model)


def read_random(detector: Detector, size: tuple[int, int], number: int, seed: int = 0) -> Iterator[Sample]:
    """Images of uniformly random pixels.

    Args:
        detector (Detector): Whose pre-processor they pass.
        size (tuple[int, int]): Height and width.
        number (int): How many.
        seed (int): Of the first; the others follow. Defaults to 0.
    """
    for index in range(number):
        inputs, samples = random_batch(detector.model, size, seed=seed + index)
        picture = np.full((*size, 3), 127, np.uint8)
        yield Sample(f'random {index}', inputs, samples, picture)


def read_images(detector: Detector, path: str | PathLike, number: int | None = None) -> Iterator[Sample]:
    """Image files, through the config's test pipeline without annotations.

    Args:
        detector (Detector): Whose pipeline and pre-processor they pass.
        path (str | PathLike): An image, or a folder whose images are taken by name.
        number (int, optional): At most so many, evenly spaced. Defaults to None: all.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the folder has no image, a file cannot be decoded, or the config has no test pipeline.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"image or folder '{path}' does not exist")
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"folder '{path}' has no image ({', '.join(SUFFIXES)})")
    transform = _image_pipeline(detector.cfg)
    for file in _spaced(files, number):
        yield _to_sample(detector, file.name, transform(dict(img_path=str(file), img_id=file.stem)))


def read_test_set(detector: Detector, number: int | None = None) -> Iterator[Sample]:
    """Images of the config's test set.

    Args:
        detector (Detector): Whose config names the test set.
        number (int, optional): At most so many, evenly spaced. Defaults to None: all.

    Raises:
        ValueError: If the config has no test set, or one without images.
    """
    cfg = detector.cfg
    if not (cfg.get('test_dataloader') or {}).get('dataset'):
        raise ValueError(f"config '{cfg.filename}' has no test_dataloader.dataset: give images instead")
    dataset = build_dataset(cfg.test_dataloader.dataset, cfg.get('default_scope'))
    for index in _spaced(range(len(dataset)), number):
        data = dataset[index]
        path = data['data_samples'].metainfo.get('img_path')
        yield _to_sample(detector, Path(path).name if path else f'image {index}', data)


def _image_pipeline(cfg: Config) -> Compose:
    """The test pipeline for files: no annotations, and a loader that names a file which does not decode."""
    pipelines = find_pipelines((cfg.get('test_dataloader') or {}).get('dataset'))
    if not pipelines:
        raise ValueError(f"config '{cfg.filename}' has no test pipeline (test_dataloader.dataset.pipeline)")
    transforms = []
    for transform in pipelines[0]:
        name = type_name(transform)
        if name.startswith('Load') and 'Annotations' in name:
            continue
        if name == 'LoadImageFromFile':
            transform = ConfigDict({**transform, 'type': 'mmscale.LoadImageFromFile'})
        transforms.append(transform)
    with _scope(cfg):
        return Compose(transforms)


def _to_sample(detector: Detector, name: str, data: dict) -> Sample:
    """Pass a packed image through the pre-processor."""
    image = data['inputs']
    picture = image.detach().cpu().float().clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
    picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB) if picture.shape[2] == 1 else picture[..., 2::-1]
    with torch.no_grad():
        batch = detector.model.data_preprocessor(dict(inputs=[image], data_samples=[data['data_samples']]), False)
    return Sample(name, batch['inputs'], batch['data_samples'], np.ascontiguousarray(picture))


def _spaced(items: Any, number: int | None) -> list:
    """At most ``number`` items, evenly spaced over all, the first among them."""
    if number is None or number >= len(items):
        return list(items)
    return [items[index * len(items) // number] for index in range(number)]


def _classes(loader: dict) -> tuple[str, ...]:
    """Names of the classes, where the data set's config has them."""
    dataset = loader.get('dataset') or {}
    while 'dataset' in dataset and 'metainfo' not in dataset:
        dataset = dataset['dataset']
    return tuple((dataset.get('metainfo') or {}).get('classes') or ())


def _scope(cfg: Config):
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmdet')

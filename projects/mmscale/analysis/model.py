"""A model with random weights and a random image for it: what complexity and speed are measured on."""
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmscale import stack
from mmscale.registry import MODELS

__all__ = ['build_model', 'check_input_size', 'load_config', 'random_batch']


def load_config(config: str | PathLike | Config, cfg_options: dict | None = None) -> Config:
    """Reads a config, with overrides.

    Args:
        config (str | PathLike | Config): A config, its file, or one inside an installed package, written like
            ``'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'``.
        cfg_options (dict, optional): Overrides by dotted key, as on the command line. Defaults to None.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If it is or inherits a config of MMSegmentation, which is not installed.
        ValueError: If the config has no ``model``.
    """
    absent = None
    try:
        cfg = _read_config(config)
    except ModuleNotFoundError as error:
        absent = error
    if absent is not None:  # not inside the clause above: a command tells a mistake by its first cause
        if 'mmsegmentation' in str(absent):
            stack.require_optional('mmsegmentation')
        raise absent
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    if not cfg.get('model'):
        raise ValueError(f"config '{config}' has no 'model': a config of a detector is wanted")
    return cfg


def _read_config(config: str | PathLike | Config) -> Config:
    if isinstance(config, Config):
        return config.copy()
    if '::' in str(config):
        from mmengine.hub import get_config
        if str(config).startswith('mmseg::'):
            stack.require_optional('mmsegmentation')  # mmengine would call pip on its own
        return get_config(str(config))
    if Path(config).is_file():
        return Config.fromfile(config)
    raise FileNotFoundError(f"config '{config}' does not exist; give a file, or 'package::path/in/its/configs.py'")


def build_model(cfg: Config, device: str = 'cpu', seed: int = 0) -> nn.Module:
    """Builds the config's model in eval mode with its random initialisation; nothing is downloaded or loaded.

    ``init_cfg`` of type Pretrained and ``pretrained`` are dropped, synchronised batch norm becomes plain batch norm.

    Args:
        cfg (Config): A whole config; its ``default_scope`` defaults to 'mmdet'.
        device (str): Where the model is put. Defaults to 'cpu'.
        seed (int): Of the random weights; PyTorch's global generator is left as it was. Defaults to 0.

    Raises:
        ModuleNotFoundError: If it is a model of MMSegmentation, which is not installed or not whole.
    """
    scope = cfg.get('default_scope') or 'mmdet'
    if scope == 'mmseg':
        stack.require_optional('mmsegmentation')
    with torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope(scope), _quiet():
        torch.manual_seed(seed)
        model = MODELS.build(ConfigDict(_without_pretrained(cfg.model.to_dict())))
        if hasattr(model, 'init_weights'):
            model.init_weights()
    return revert_sync_batchnorm(model).to(device).eval()


def random_batch(model: nn.Module, input_size: tuple[int, int], batch_size: int = 1, seed: int = 0,
                 objects: int = 0) -> tuple[Tensor, list]:
    """Random images on their way through the model's own data pre-processor (normalised, padded to its divisor).

    Args:
        model (nn.Module): A detector of MMDetection, or a segmentor of MMSegmentation.
        input_size (tuple[int, int]): Height and width of the images.
        batch_size (int): Number of images. Defaults to 1.
        seed (int): Of the pixels and the objects. Defaults to 0.
        objects (int): Boxes of every image, with sides from 1/32 to 1/4 of the image's, as a detector's ground truth.
            Defaults to 0, without.

    Returns:
        tuple[Tensor, list]: The batch, (B, 3, padded H, padded W), and its samples (DetDataSample or SegDataSample).

    Raises:
        ValueError: If the model has no box head for the objects, or needs their masks.
    """
    sample_type = _sample_type(model)
    height, width = check_input_size(input_size)
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
              for _ in range(batch_size)]
    meta = dict(img_shape=(height, width), ori_shape=(height, width), pad_shape=(height, width),
                batch_input_shape=(height, width), scale_factor=(1.0, 1.0), img_path='random')
    samples = [sample_type(metainfo=dict(meta, img_id=i)) for i in range(batch_size)]
    if objects:
        for sample in samples:
            sample.gt_instances = _random_objects(model, (height, width), objects, generator)
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), False)
    return data['inputs'], data['data_samples']


def _random_objects(model: nn.Module, size: tuple[int, int], count: int, generator: torch.Generator) -> InstanceData:
    roi_head = getattr(model, 'roi_head', None)
    head = getattr(model, 'bbox_head', None) or getattr(roi_head, 'bbox_head', None)
    head = head[0] if isinstance(head, nn.ModuleList) else head
    if not hasattr(head, 'num_classes'):
        raise ValueError(f'{type(model).__name__} has no box head to train with random objects')
    if getattr(roi_head, 'with_mask', False):
        raise ValueError(f'{type(model).__name__} trains with masks, of which random objects have none')
    image = torch.tensor(size[::-1])
    sides = image * (1 / 32 + torch.rand(count, 2, generator=generator) * (1 / 4 - 1 / 32))
    corners = torch.rand(count, 2, generator=generator) * (image - sides)
    labels = torch.randint(0, head.num_classes, (count,), generator=generator)
    return InstanceData(bboxes=torch.cat((corners, corners + sides), dim=1), labels=labels)


def _sample_type(model: nn.Module) -> type:
    """What a model's own data set would hand it beside the image."""
    if any(cls.__module__.startswith('mmseg.') for cls in type(model).__mro__):
        from mmseg.structures import SegDataSample
        return SegDataSample
    from mmdet.structures import DetDataSample
    return DetDataSample


def check_input_size(input_size: Any) -> tuple[int, int]:
    """Height and width as two positive integers; one alone means a square."""
    size = (input_size,) if isinstance(input_size, int) else tuple(input_size)
    size = size * 2 if len(size) == 1 else size
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f'input_size must be height and width, two positive integers, but is {input_size!r}')
    return size


def _without_pretrained(node: Any) -> Any:
    """The same config without anything that would load weights."""
    if isinstance(node, (list, tuple)):
        return type(node)(_without_pretrained(item) for item in node)
    if not isinstance(node, dict):
        return node
    kept = {}
    for key, value in node.items():
        if key == 'init_cfg':
            entries = [entry for entry in (value if isinstance(value, list) else [value])
                       if not (isinstance(entry, dict) and str(entry.get('type')).endswith('Pretrained'))]
            if not entries:
                continue
            value = entries if isinstance(value, list) else entries[0]
        elif key == 'pretrained':
            value = False if value is True else None if isinstance(value, str) else value
        kept[key] = _without_pretrained(value)
    return kept


@contextmanager
def _quiet() -> Iterator[None]:
    """MMEngine logs one line per initialised parameter."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

"""What a config's own test pipeline makes of an image, and what the rules of an exported file do."""

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmscale.analysis.detector import Detector
from mmscale.deploy.export import write_file
from mmscale.deploy.metadata import describe
from mmscale.inference import OnnxModel

PACK = dict(type='mmdet.PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor', 'pad_param'))


def config_of(*steps: dict) -> Config:
    """A config with a test pipeline."""
    pipeline = [dict(type='mmscale.LoadImageFromFile'), *steps, PACK]
    dataset = dict(type='mmscale.VOCDataset', pipeline=pipeline)
    parts = dict(test_dataloader=dict(dataset=dataset))
    return Config(parts, cfg_text='written by a test', filename='tiny.py')


def noise(height: int, width: int) -> np.ndarray:
    """Random pixels, BGR: no two ways to resize them agree."""
    return np.random.default_rng(height * 10000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_pipeline(cfg: Config, image: np.ndarray) -> tuple[np.ndarray, dict]:
    """RGB, float32, ``(3, H, W)``, and what the pipeline says about it."""
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if '.Load' not in f'.{step["type"]}']
    size = image.shape[:2]
    with DefaultScope.overwrite_default_scope('mmdet'):
        packed = Compose(steps)(dict(img=image.copy(), img_path='', img_id=0, img_shape=size, ori_shape=size))
    return packed['inputs'].flip(0).numpy().astype(np.float32), packed['data_samples'].metainfo


def model_of(path, file, detector: Detector, size: tuple[int, int] | None = None) -> OnnxModel:
    """A file with other metadata: those of a detector with another pipeline."""
    file = type(file).FromString(file.SerializeToString())
    del file.metadata_props[:]
    for key, value in describe(detector, size).items():
        file.metadata_props.add(key=key, value=value)
    write_file(file, path)
    return OnnxModel(path, 'cpu')


def boxes_back(prepared, model: OnnxModel, boxes: np.ndarray, monkeypatch) -> np.ndarray:
    """Boxes of the input ``(N, 4)`` as the model tells them: in the image."""
    outputs = boxes[None].astype(np.float32), np.ones((1, len(boxes)), np.float32), np.zeros((1, len(boxes)), np.int64)
    monkeypatch.setattr(model, '_session', type('Session', (), dict(run=lambda *_: outputs))())
    return model.detect([prepared], 0.5)[0].boxes


def boxes_by_meta(meta: dict, boxes: np.ndarray) -> np.ndarray:
    """The same as MMYOLO's and MMDetection's heads do it, in float32, and clipped."""
    top, _, left, _ = meta.get('pad_param', np.zeros(4))
    boxes = torch.from_numpy(boxes).float() - torch.tensor([left, top, left, top]).float()
    boxes = boxes / torch.tensor(meta.get('scale_factor', (1.0, 1.0))).float().repeat(2)
    height, width = meta['ori_shape']
    return boxes.numpy().clip(0, [width, height, width, height])

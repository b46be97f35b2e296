"""MMDetection's own high-level interfaces with configs of this project."""

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config


@pytest.fixture
def files(repo, tmp_path):
    """A config of this project in a small form, and a checkpoint of random weights as the runner writes them."""
    cfg = Config.fromfile(repo / 'configs' / 'fine' / 'fcos_r18_fpn-fine_5e_small-objects.py')
    cfg.merge_from_dict({'model.backbone.base_channels': 8, 'model.neck.in_channels': [8, 16, 32, 64]})
    cfg.model.test_cfg.score_thr = 0.0
    cfg.dump(tmp_path / 'config.py')
    model = init_detector(cfg, device='cpu')
    meta = dict(dataset_meta=dict(classes=('disk', 'square', 'triangle', 'cross'), palette=[(1, 2, 3)] * 4))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'weights.pth')
    return str(tmp_path / 'config.py'), str(tmp_path / 'weights.pth')


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)


def test_inference_detector(files, image):
    model = init_detector(*files, device='cpu')
    result = inference_detector(model, image)
    assert len(result.pred_instances) > 0
    assert model.dataset_meta['classes'] == ('disk', 'square', 'triangle', 'cross')


def test_det_inferencer_takes_our_image_loader(files, image):
    inferencer = DetInferencer(*files, device='cpu', show_progress=False)
    (found,) = inferencer(image, no_save_vis=True)['predictions']
    assert len(found['bboxes']) == len(found['labels']) > 0

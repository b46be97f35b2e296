"""A one-stage and a two-stage detector small enough for tests."""
from pathlib import Path

import pytest

PREPROCESSOR = '''
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[0., 0., 0.], std=[255., 255., 255.], pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=8, out_indices=(0, 1, 2, 3),
                  init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
'''

ONE_STAGE = f'''
default_scope = 'mmdet'
model = dict(
    type='FCOS',{PREPROCESSOR}
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, start_level=1, add_extra_convs='on_output',
              num_outs=5),
    bbox_head=dict(type='FCOSHead', num_classes=3, in_channels=16, feat_channels=16, stacked_convs=STACKED,
                   norm_cfg=None),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5),
                  max_per_img=10))
'''

TWO_STAGE = f'''
default_scope = 'mmdet'
model = dict(
    type='FasterRCNN',{PREPROCESSOR}
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
    rpn_head=dict(type='RPNHead', in_channels=16, feat_channels=16,
                  anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0],
                                        strides=[4, 8, 16, 32, 64]),
                  bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    roi_head=dict(type='StandardRoIHead',
                  bbox_roi_extractor=dict(type='SingleRoIExtractor', out_channels=16, featmap_strides=[4, 8, 16, 32],
                                          roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2)),
                  bbox_head=dict(type='Shared2FCBBoxHead', in_channels=16, fc_out_channels=32, num_classes=3,
                                 bbox_coder=dict(type='DeltaXYWHBBoxCoder'))),
    train_cfg=None,
    test_cfg=dict(rpn=dict(nms_pre=20, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
                  rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)))
'''


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def one_stage(tmp_path: Path) -> Path:
    """FCOS with narrow layers, one convolution in each branch of its head."""
    return _write(tmp_path / 'one_stage.py', ONE_STAGE.replace('STACKED', '1'))


@pytest.fixture
def deeper_one_stage(tmp_path: Path) -> Path:
    """The same with two convolutions in each branch: 2 x (16 x 16 x 9 + 16) = 4640 parameters more."""
    return _write(tmp_path / 'deeper.py', ONE_STAGE.replace('STACKED', '2'))


@pytest.fixture
def two_stage(tmp_path: Path) -> Path:
    """Faster R-CNN with narrow layers and 20 proposals."""
    return _write(tmp_path / 'two_stage.py', TWO_STAGE)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A config that loads but does not build."""
    return _write(tmp_path / 'broken.py', "default_scope = 'mmdet'\nmodel = dict(type='NoSuchDetector')\n")

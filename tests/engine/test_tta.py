"""Test-time augmentation leaves the ground truth where it is."""
import textwrap

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_flip
from mmengine.model import BaseModel
from mmengine.structures import InstanceData

from mmscale.engine.test import build_parser, prepare
from mmscale.engine.test import test as run_test

from ..datasets.tiny import voc_xml, write_voc

CLASSES = ('disk', 'square')
# file: objects (class, xmin, ymin, xmax, ymax), counted from 1, all in the left half of 64 pixels
OBJECTS = {'a': [('disk', 2, 3, 20, 30), ('square', 5, 20, 25, 44)], 'b': [('square', 1, 1, 12, 12)]}

CONFIG = """
    default_scope = 'mmdet'
    custom_imports = dict(imports=['mmscale'])
    model = dict(type='TTAOracle')
    test_pipeline = [
        dict(type='mmscale.LoadImageFromFile'), dict(type='Resize', scale=(128, 96), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
    test_dataloader = dict(
        batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='mmscale.VOCDataset', data_root={root!r}, metainfo=dict(classes=('disk', 'square')),
                     ann_file='ImageSets/Main/test.txt', data_prefix=dict(sub_data_root=''), test_mode=True,
                     pipeline=test_pipeline))
    test_evaluator = dict(type='mmscale.DetectionMetric', protocols=('voc07', 'coco'))
    test_cfg = dict(type='TestLoop')
    vis_backends = [dict(type='LocalVisBackend')]
    visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
    log_level = 'ERROR'
"""
OWN_PIPELINE = """
    tta_pipeline = [
        *test_pipeline[:-1],
        dict(type='TestTimeAug', transforms=[
            [dict(type='RandomFlip', prob={first}), dict(type='RandomFlip', prob={second})],
            [dict(type='PackDetInputs', meta_keys=(
                'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'))]])]
"""


class TTAOracle(BaseModel):
    """Detects what the annotation files say, mirrored where the image is, and keeps what it was given."""
    seen = []

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        for item in data_samples:
            self.seen.append((item.flip, item.gt_instances.bboxes.tensor.tolist()))
            objects = OBJECTS[item.img_id]
            boxes = torch.tensor([[side - 1. for side in entry[1:]] for entry in objects])
            if item.flip:
                boxes = bbox_flip(boxes, item.ori_shape, item.flip_direction)
            item.pred_instances = InstanceData(
                bboxes=boxes, scores=torch.full((len(boxes), ), 0.9),
                labels=torch.tensor([CLASSES.index(entry[0]) for entry in objects]))
        return data_samples


@pytest.fixture
def command_line(tmp_path, monkeypatch):
    """A function that makes the arguments of a test run with --tta, for a config with more lines."""
    monkeypatch.setitem(MODELS.module_dict, 'TTAOracle', TTAOracle)
    monkeypatch.setattr(TTAOracle, 'seen', [])
    root = write_voc(tmp_path / 'voc', {name: voc_xml(objects) for name, objects in OBJECTS.items()}, 'test')
    torch.save(dict(state_dict=TTAOracle().state_dict(), meta={}), tmp_path / 'oracle.pth')

    def make(extra: str = ''):
        text = textwrap.dedent(CONFIG).format(root=f'{root}/') + textwrap.dedent(extra)
        (tmp_path / 'oracle.py').write_text(text)
        return build_parser().parse_args([str(tmp_path / 'oracle.py'), str(tmp_path / 'oracle.pth'), '--tta',
                                          '--work-dir', str(tmp_path / 'run')])

    return make


@pytest.mark.parametrize('own', ['', OWN_PIPELINE.format(first='0.', second='1.')], ids=['derived', 'own'])
def test_perfect_detections_are_perfect(command_line, own):
    """The views are merged in the image's own pixels, and the truth that they are compared with lies there too."""
    metrics = run_test(prepare(command_line(own)))
    assert [flip for flip, _ in TTAOracle.seen] == [False, True] * 2, 'both views of both images'
    assert TTAOracle.seen[0][1] == [[1, 2, 19, 29], [4, 19, 24, 43]], "the image's own pixels, not those of Resize"
    assert metrics['voc07/mAP'] == pytest.approx(1) and metrics['coco/AP'] == pytest.approx(1)


def test_a_pipeline_that_begins_with_the_mirror_image(command_line):
    with pytest.raises(ValueError, match=r"image 'a' came mirrored \(flip=True\)"):
        run_test(prepare(command_line(OWN_PIPELINE.format(first='1.', second='0.'))))

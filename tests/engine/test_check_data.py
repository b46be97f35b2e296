"""Model against data, before anything runs."""
import pytest
import torch
import torch.nn as nn
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmscale.datasets import CocoDataset
from mmscale.engine.hooks import CheckDataHook
from mmscale.engine.hooks.check_data import check_heads, check_labels, class_heads, leaf_datasets

from ..datasets.tiny import write_coco


class Head(nn.Module):
    """All that the check looks at."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes


class Detector(BaseModel):
    """A detector that must not be run."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.bbox_head = Head(num_classes)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, *args, **kwargs):
        raise RuntimeError('the model ran')


@pytest.fixture
def dataset(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1), dict(id=2)], [
        dict(image_id=1, category_id=1, bbox=[5, 5, 9, 9]), dict(image_id=2, category_id=2, bbox=[5, 5, 9, 9])])
    return CocoDataset(ann_file=str(path), metainfo=dict(classes=('disk', 'square')), data_prefix=dict(img=''),
                       serialize_data=False)


@pytest.mark.parametrize(('config', 'heads'), [
    ('retinanet/retinanet_r50_fpn_1x_coco.py', ['bbox_head']),
    ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', ['roi_head.bbox_head', 'roi_head.mask_head']),
    ('htc/htc_r50_fpn_1x_coco.py', [f'roi_head.{kind}_head.{i}' for kind in ('bbox', 'mask') for i in range(3)]),
])
def test_the_right_heads_are_compared(dataset, config, heads):
    """Region proposals have one class, semantic segmentation its own; neither is compared."""
    model = get_config(f'mmdet::{config}').model
    model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(model)
    assert [name for name, _ in class_heads(model)] == heads
    with pytest.raises(ValueError, match=rf"{heads[0]}.num_classes=80 .* has 2 classes \('disk', 'square'\)") as error:
        check_heads(model, dataset)
    assert all(f'{head}.num_classes=80' in str(error.value) for head in heads)


def test_a_model_that_fits(dataset):
    check_heads(Detector(2), dataset)


def test_wrappers_are_looked_through(dataset):
    assert list(leaf_datasets(RepeatDataset(dataset, times=2))) == [dataset]
    assert list(leaf_datasets(ConcatDataset([dataset, dataset]))) == [dataset, dataset]
    assert list(leaf_datasets(ClassBalancedDataset(dataset, 0.1))) == [dataset]


def test_an_empty_wrapper_is_no_leaf(dataset):
    class Wrapper:
        datasets = []

    assert list(leaf_datasets(Wrapper())) == []
    dataset.datasets = None
    assert list(leaf_datasets(dataset)) == [dataset]


def test_heads_for_re_identification_are_not_compared(dataset):
    """They count individuals: below a tracker's reid, or a model of their own, whose head is just 'head'."""
    class LinearReIDHead(Head):
        pass

    model = Detector(2)
    model.reid = nn.ModuleDict(dict(head=Head(380)))
    model.head = LinearReIDHead(380)
    assert [name for name, _ in class_heads(model)] == ['bbox_head']
    check_heads(model, dataset)


def test_labels_out_of_range(dataset):
    check_labels(dataset, 10)
    dataset.data_list[1]['instances'][0]['bbox_label'] = 2
    with pytest.raises(ValueError, match=r"'2.jpg' of CocoDataset .* label 2, but labels 0 to 1 are right for"):
        check_labels(dataset, 10)
    check_labels(dataset, 1)
    check_labels(dataset, 0)


def test_few_images_are_looked_at(dataset, monkeypatch):
    seen = []
    monkeypatch.setattr(CocoDataset, '__len__', lambda self: 118_000)
    monkeypatch.setattr(CocoDataset, 'get_data_info', lambda self, index: seen.append(index) or {})
    check_labels(dataset, 2000)
    assert 1900 <= len(seen) <= 2000 and seen[0] == 0 and seen[-1] > 117_000


def test_a_forgotten_comma(dataset):
    dataset._metainfo['classes'] = 'disk'
    with pytest.raises(TypeError, match="is the string 'disk'"):
        check_heads(Detector(1), dataset)


def test_a_wrong_argument():
    with pytest.raises(ValueError, match='max_images=-1 should be an integer from 0 on'):
        CheckDataHook(max_images=-1)


def make_runner(tmp_path, dataset, num_classes: int) -> Runner:
    loader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)
    evaluator = dict(type='mmscale.DetectionMetric', ann_file=dataset.ann_file)
    return Runner(
        Detector(num_classes), str(tmp_path / 'work'), optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        train_dataloader=loader, train_cfg=dict(by_epoch=True, max_epochs=1),
        val_dataloader=loader, val_cfg=dict(), val_evaluator=evaluator,
        test_dataloader=loader, test_cfg=dict(), test_evaluator=evaluator,
        custom_hooks=[dict(type='mmscale.CheckDataHook')], default_scope='mmdet', experiment_name=tmp_path.name,
        cfg=Config(), log_level='ERROR')


@pytest.mark.parametrize('stage', ['train', 'val', 'test'])
def test_found_before_the_first_step(tmp_path, dataset, stage):
    runner = make_runner(tmp_path, dataset, num_classes=80)
    with pytest.raises(ValueError, match='the model has bbox_head.num_classes=80 .Head., but CocoDataset'):
        getattr(runner, stage)()


def test_a_fitting_run_goes_on(tmp_path, dataset):
    with pytest.raises(RuntimeError, match='the model ran'):
        make_runner(tmp_path, dataset, num_classes=2).test()

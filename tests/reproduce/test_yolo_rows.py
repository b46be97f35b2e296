"""Rows of YOLOs: their hooks at another length, mosaics at another size, other data, and cost in part."""

import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmscale.datasets.generate import generate
from mmscale.registry import HAS_MMYOLO
from mmscale.reproduce.complexity import count, to_markdown
from mmscale.reproduce.config import Settings, row_config
from mmscale.reproduce.dataset import resize_images, swap_dataset
from mmscale.reproduce.schedule import fit_schedule, set_epochs
from mmscale.reproduce.spec import SpecError, find, load_paper, load_papers

from ..test_base_datasets import build_loader
from ..trainings import own_process_state

needs_mmyolo = pytest.mark.skipif(not HAS_MMYOLO, reason='mmyolo, whose parts these rows use, is not installed')
TABLES = """
title: A paper
reference: Somebody
tables:
  table1:
    title: A table
    source: Table 1
    recipe: {paper: theirs, ours: ours}
    base: base.py
    baseline: plain
    task: detection
    metrics: {AP: coco/AP}
    flops: 2xmacs
    input_size: [160, 160]
    rows:
      - {name: plain, label: Plain}
      - {name: parts, label: In part, count_only: [convolution], paper: {flops: 1}}
      - {name: both, label: Both, count_only: [convolution, attention]}
      - {name: wider, label: Wider, set: {model.neck.out_channels: 64, model.bbox_head.in_channels: 64}}
      - {name: wrong, label: Wrong, count_only: [convolutions]}
"""
CONFIG = """
_base_ = 'mmscale::fine/fcos_r18_fpn-fine_2e_bccd.py'
model = dict(backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
             bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1))
"""


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


def row_of(name, row):
    (table,) = find(name)
    return table, table.row(row)


def config(name, row, **settings) -> Config:
    return row_config(*row_of(name, row), Settings(**settings))


def steps(node, ending) -> list[dict]:
    """Every transform of a config whose type ends so, wherever it stands in its pipelines."""
    if isinstance(node, dict):
        found = [node] if str(node.get('type', '')).endswith(ending) else []
        return found + [step for value in node.values() for step in steps(value, ending)]
    return [step for item in node for step in steps(item, ending)] if isinstance(node, (list, tuple)) else []


def live(cfg) -> list:
    """What of a config the runner reads: its variables keep what they had."""
    return [cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader, cfg.custom_hooks]


# count_only -----------------------------------------------------------------------------------------------------------


def write(folder, tables):
    (folder / 'paper').mkdir(exist_ok=True)
    (folder / 'paper' / 'base.py').write_text(CONFIG)
    (folder / 'paper' / 'tables.yml').write_text(tables)
    return load_paper(folder / 'paper' / 'tables.yml').tables['table1']


def test_cost_of_some_kinds_of_operators(tmp_path):
    table = write(tmp_path, TABLES)
    assert [row.count_only for row in table.rows] == [
        (), ('convolution',), ('convolution', 'attention'), (), ('convolutions',)
    ]  # fmt: skip
    costs = count([table], jobs=1, progress=False)[table.name]
    plain, parts, both, wider, wrong = costs
    kinds = {kind: entry['macs'] for kind, entry in plain.result['by_kind'].items()}
    assert plain.ours['flops'] == pytest.approx(2 * sum(kinds.values()) / 1e9)
    assert plain.result == parts.result == both.result, 'one network'
    assert parts.ours['flops'] == pytest.approx(2 * kinds['convolution'] / 1e9)
    assert both.ours['flops'] == pytest.approx(2 * (kinds['convolution'] + kinds['attention']) / 1e9)
    assert parts.ours['flops'] < both.ours['flops'] < plain.ours['flops']
    assert parts.ours['params'] == plain.ours['params'], 'all weights'
    # differences are of the row's own kinds
    assert parts.ours['flops_delta'] == both.ours['flops_delta'] == 0
    assert wider.ours['flops_delta'] == pytest.approx(wider.ours['flops'] - plain.ours['flops']) != 0
    assert not wrong.ours and "count_only names 'convolutions', but the network's operators are " in wrong.error
    assert 'convolution' in wrong.error.partition('operators are ')[2]
    text = to_markdown(table, costs)
    assert '- In part: as in the paper, operations of convolution alone' in text
    assert '- Both: as in the paper, operations of convolution, attention alone' in text
    assert text.count('- Wrong: failed: ') == 1 and 'operations of convolutions alone' not in text


@pytest.mark.parametrize(
    'wrong, sentence',
    [
        ('count_only: convolution', "'count_only' should be a list of kinds of operators, but is 'convolution'"),
        ('count_only: [1]', r"'count_only' should be a list of kinds of operators, but is \[1\]"),
        ('count_only: {convolution: 1}', "'count_only' should be a list of kinds"),
        ('quoted: true, count_only: [convolution]', "a row that cannot run should not have 'count_only'"),
        ('waits_for: somebody, count_only: []', "a row that cannot run should not have 'count_only'"),
    ],
)
def test_mistakes_in_count_only(wrong, sentence, tmp_path):
    tables = TABLES.replace('count_only: [convolutions]', wrong)
    with pytest.raises(SpecError, match=f"table 'table1', row 'wrong'.*{sentence}"):
        write(tmp_path, tables)


def test_rows_that_use_it():
    found = {
        (table.name, row.name): row.count_only
        for paper in load_papers().values()
        for table in paper.tables.values()
        for row in table.rows
        if row.count_only
    }
    assert found == {('fine/table1-realtime', 'yolov12-s'): ('convolution',)}


# Another length -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name, row, epochs, switch, warm_up',
    [
        ('fine/table1-realtime', 'yolov8-s', 100, 98, 1),  # of 500: 490 and 3
        ('fine/table1-realtime', 'yolov12-s', 60, 59, 0),  # of 600: 590 and 3
        ('fine/table1-realtime', 'yolov12-s', 1200, 1180, 6),
        ('fine/table8', 'yolov8-s', 20, 18, 1),  # of 100: 90 and 3
        ('hmpe/table1-nwpu', 'yolov5', 15, 13, 1),  # of 75: 65 and 3
        ('csf_net/table2', 'csf-net', 16, 13, 1),  # of 80: 65 and 3
        ('csf_net/table2', 'csf-net', 1, 1, 0),
    ],
)
def test_hooks_follow_the_number_of_epochs(name, row, epochs, switch, warm_up):
    cfg = config(name, row, epochs=epochs)
    hook = cfg.default_hooks.param_scheduler
    (switched,) = steps(cfg.custom_hooks, 'PipelineSwitchHook')
    assert cfg.train_cfg.max_epochs == hook.max_epochs == epochs
    assert (switched.switch_epoch, hook.warmup_epochs) == (switch, warm_up)
    assert 'dynamic_intervals' not in cfg.train_cfg and cfg.train_cfg.val_interval <= epochs
    assert cfg.default_hooks.checkpoint.interval == 1


def test_the_least_warm_up_is_a_tenth_of_the_run():
    own = config('fine/table1-realtime', 'yolov8-s')
    before = own.default_hooks.param_scheduler.copy()
    fit_schedule(own, iterations_per_epoch=1000)
    assert own.default_hooks.param_scheduler == before == {**before, 'warmup_mim_iter': 1000}, 'long enough'
    cfg = config('fine/table1-realtime', 'yolov8-s', epochs=8)
    fit_schedule(cfg, iterations_per_epoch=52)
    assert cfg.default_hooks.param_scheduler.warmup_mim_iter == 41
    fit_schedule(cfg, iterations_per_epoch=1)
    assert cfg.default_hooks.param_scheduler.warmup_mim_iter == 1
    fit_schedule(cfg, iterations_per_epoch=10_000)
    assert cfg.default_hooks.param_scheduler.warmup_mim_iter == 1, 'never longer'


def test_other_hooks_that_count_epochs():
    """YOLOX's; a text, a switch or a negative number is none."""
    cfg = Config(
        dict(
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=10),
            param_scheduler=[dict(type='ConstantLR', by_epoch=True, begin=285, end=300, factor=1)],
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=10)),
            custom_hooks=[
                dict(type='mmdet.YOLOXModeSwitchHook', num_last_epochs=15),
                dict(type='Strange', max_epochs='all', switch_epoch=-1, warmup_epochs=None),
            ],
        )
    )
    set_epochs(cfg, 100)
    assert cfg.custom_hooks[0].num_last_epochs == 5 and cfg.default_hooks.checkpoint.interval == 10
    assert (cfg.param_scheduler[0].begin, cfg.param_scheduler[0].end) == (95, 100)
    assert cfg.custom_hooks[1] == dict(type='Strange', max_epochs='all', switch_epoch=-1, warmup_epochs=None)
    cfg.custom_hooks = None
    set_epochs(cfg, 50)
    assert cfg.train_cfg.max_epochs == 50


def test_the_batchs_decay_is_of_the_batch_that_is_trained():
    """The optimizer's constructor scales weight decay by it."""
    cfg = config('fine/table1-realtime', 'yolov12-s', batch_size=4)
    assert cfg.train_dataloader.batch_size == cfg.optim_wrapper.optimizer.batch_size_per_gpu == 4


# Another size ---------------------------------------------------------------------------------------------------------

ROWS = [
    ('fine/table1-realtime', 'yolov8-s_fine', 1),
    ('fine/table1-realtime', 'yolov12-s', 2),
    ('fine/table8', 'yolov6-s', 1),
    ('hmpe/table1-nwpu', 'yolov7', 1),
    ('hmpe/table1-voc', 'yolov7', 2),  # of two years
    ('csf_net/table3', 'csf-net', 2),
]


@pytest.mark.parametrize('name, row, mosaics', ROWS)
def test_every_size_of_a_mosaics_pipelines_is_set(name, row, mosaics):
    """Those of the images that MixUp draws as well, and of the pipeline after the switch."""
    masked = any(step.get('with_mask') for step in steps(config(name, row).train_dataloader, 'LoadAnnotations'))
    cfg = config(name, row, image_scale=(320, 256), dataset='bccd' if masked else None)  # with masks: square only
    assert [step.img_scale for step in steps(live(cfg), 'Mosaic')] == [(320, 256)] * mosaics
    affines = steps(live(cfg), 'RandomAffine')
    assert [step.get('border') for step in affines] == [(-160, -128)] * mosaics + [None]
    resizes = [*steps(live(cfg), 'YOLOv5KeepRatioResize'), *steps(live(cfg), 'LetterResize')]
    assert [step.scale for step in resizes] == [(320, 256)] * 6
    assert all(isinstance(step.img_scale, tuple) for step in steps(live(cfg), 'Mosaic')), 'as MMYOLO asserts'


def test_a_border_of_another_kind_stays():
    affine = dict(type='mmdet.RandomAffine', border=(0, 0))
    cfg = Config(dict(model={}, train_dataloader=dict(dataset=dict(pipeline=[
        dict(type='mmdet.Resize', scale=(1, 1)), affine, dict(type='mmdet.Pad', size=(7, 7))]))))  # fmt: skip
    resize_images(cfg, (32, 32))
    assert cfg.train_dataloader.dataset.pipeline[1] == affine


# Other data -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Four images with an object each."""
    root = tmp_path_factory.mktemp('rows') / 'data'
    generate(root, images_train=4, images_val=1, size=96, objects=(1, 1))
    return root


def loaded(cfg, data) -> list[dict]:
    """Three epochs of the training pipeline, and one of that after the switch, on small objects."""
    loader = cfg.train_dataloader
    loader.update(batch_size=4)
    loader.dataset.update(data_root=str(data))
    (switch,) = steps(cfg.custom_hooks, 'PipelineSwitchHook')
    np.random.seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        first = build_loader(deepcopy(loader))
        loader.dataset.pipeline = switch.switch_pipeline
        return [*(batch for _ in range(3) for batch in first), *build_loader(loader)]


def boxes_of(batches) -> int:
    """How many there are; they lie in their images and can be seen."""
    total = 0
    for batch in batches:
        for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            boxes = sample.gt_instances.bboxes.tensor
            limit = torch.tensor(image.shape[:0:-1])
            assert 'masks' not in sample.gt_instances and len(boxes) == len(sample.gt_instances.labels)
            assert (boxes >= 0).all() and (boxes[:, 2:] <= limit).all() and (boxes[:, 2:] > boxes[:, :2]).all()
            assert set(sample.gt_instances.labels.tolist()) <= {0, 1, 2, 3}
            total += len(boxes)
    return total


@needs_mmyolo
@pytest.mark.parametrize('name, row', [('fine/table1-realtime', 'yolov12-s'), ('csf_net/table2', 'csf-net')])
def test_another_data_layer_under_a_yolo_runs_on_its_data(name, row, data):
    """YOLOv12's copy-paste, which needs masks, passes on images that have none."""
    own = config(name, row)
    cfg = config(name, row, dataset='small_objects', image_scale=(128, 96))
    pastes = steps(cfg.train_dataloader, 'CopyPaste')
    assert len(pastes) == (2 if 'yolov12' in row else 0)
    assert bool(pastes) == any(step.get('with_mask') for step in steps(own.train_dataloader, 'LoadAnnotations'))
    assert not any(step.get('with_mask') for step in steps(live(cfg), 'LoadAnnotations'))
    for mix in steps(cfg.train_dataloader, 'YOLOv5MixUp'):
        mix.prob = 0.5
    batches = loaded(cfg, data)
    assert {tuple(image.shape) for batch in batches for image in batch['inputs']} == {(3, 96, 128)}
    assert boxes_of(batches) >= 12
    head = cfg.model.bbox_head.head_module.num_classes
    assert head == cfg.model.train_cfg.assigner.num_classes == cfg.num_classes == 4


@needs_mmyolo
def test_with_masks_objects_are_pasted(data):
    """As the row stands; boxes are then those of the masks."""
    table, row = row_of('fine/table1-realtime', 'yolov12-s')
    small = row_config(table, row, Settings(dataset='small_objects')).train_dataloader.dataset
    counts = []
    for prob in (0.0, 1.0):
        cfg = row_config(table, row, Settings(image_scale=(96, 96)))
        for paste in steps(cfg.train_dataloader, 'CopyPaste'):
            paste.prob = prob
        for mix in steps(cfg.train_dataloader, 'YOLOv5MixUp'):
            mix.prob = 0.5
        pipeline = cfg.train_dataloader.dataset.pipeline
        assert all(step.with_mask for step in steps(pipeline, 'LoadAnnotations'))
        cfg.train_dataloader.dataset = {**small, 'pipeline': pipeline}
        counts.append(boxes_of(loaded(cfg, data)))
    assert counts[1] > 1.3 * counts[0] > 0


@needs_mmyolo
def test_its_own_data_by_name_still_has_its_masks():
    cfg = config('fine/table1-realtime', 'yolov12-s', dataset='coco_detection')
    assert all(step.with_mask for step in steps(cfg.train_dataloader, 'LoadAnnotations'))


@needs_mmyolo
def test_a_mosaic_of_masks_is_square():
    """MMYOLO's exchanges the sides of masks."""
    with pytest.raises(ValueError, match='128x96 is not square, and the mosaic of masks'):
        config('fine/table1-realtime', 'yolov12-s', image_scale=(128, 96))
    config('fine/table1-realtime', 'yolov8-s', image_scale=(128, 96))


def test_a_row_without_copy_paste_keeps_its_masks():
    """It trains on them, and boxes are not enough."""
    mask_rcnn = config('fine/table7-instance', 'fine')
    with pytest.raises(ValueError, match="the row is of masks, and the data layer 'bccd' of boxes"):
        swap_dataset(mask_rcnn, 'bccd')
    assert all(step.with_mask for step in steps(mask_rcnn.train_dataloader, 'LoadAnnotations'))


def classes_in(node) -> set[int]:
    """Every number of classes in a model's config."""
    if isinstance(node, dict):
        own = {node['num_classes']} if isinstance(node.get('num_classes'), int) else set()
        return own.union(*(classes_in(value) for value in node.values()))
    return set().union(*(classes_in(item) for item in node)) if isinstance(node, (list, tuple)) else set()


def yolo_rows(pattern) -> list[tuple[str, str]]:
    return [
        (table.name, row.name)
        for paper in load_papers().values()
        for table in paper.tables.values()
        for row in table.rows
        if row.config and re.search(pattern, row.config)
    ]


@needs_mmyolo
@pytest.mark.parametrize('name, row', yolo_rows(r'/(yolo/|csf_net/csf|fine/yolo|hmpe/table1/yolov[5678])'))
def test_class_counts_of_every_yolo_row_follow_another_layer(name, row):
    table, entry = row_of(name, row)
    for dataset in (None, 'bccd'):
        cfg = row_config(table, entry, Settings(dataset=dataset))
        assert classes_in(cfg.model) == {cfg.num_classes}
    assert cfg.num_classes == 3


@pytest.mark.parametrize('dataset, classes', [(None, None), ('bccd', 3), ('coco_detection', 80)])
@pytest.mark.parametrize('name, row', yolo_rows(r'/yolov[57]_l'))
def test_class_losses_of_yolov5_and_yolov7_are_weighted_by_the_number_of_classes(name, row, dataset, classes):
    """0.5 and 0.3 for COCO's 80, as their configs say: of the rows' own data, and of other data in its place."""
    table, entry = row_of(name, row)
    cfg = row_config(table, entry, Settings(dataset=dataset))
    assert classes is None or cfg.num_classes == classes
    weight = {'mmyolo.YOLOv5Head': 0.5, 'mmyolo.YOLOv7Head': 0.3}[cfg.model.bbox_head.type]
    assert cfg.model.bbox_head.loss_cls.loss_weight == pytest.approx(weight * cfg.num_classes / 80)


@pytest.mark.parametrize('name, row', yolo_rows(r'csf_net/csf-net_n_80e'))
def test_class_losses_of_other_yolos_stay(name, row):
    table, entry = row_of(name, row)
    own, other = (row_config(table, entry, Settings(dataset=data)).model.bbox_head for data in (None, 'bccd'))
    assert own.loss_cls == other.loss_cls

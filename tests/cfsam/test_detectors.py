"""SSD300-CFSAM as its configs and tables build it, the paper's figures, and CFSAM behind other necks."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmscale.analysis.complexity import complexity
from mmscale.analysis.model import build_model
from mmscale.datasets import CocoDataset, VOCDataset
from mmscale.paths import config_root
from mmscale.registry import METRICS, MODELS
from mmscale.reproduce.config import Settings, count_config, row_config
from mmscale.reproduce.spec import find

from .small import batch, training_model

WIDTHS, SIDES = (512, 1024, 512, 256, 256, 256), (38, 19, 10, 5, 3, 1)  # SSD300's maps


@cache
def config(name) -> Config:
    """One of CFSAM's configs; shared, so leave it as it is."""
    return Config.fromfile(config_root() / 'cfsam' / f'{name}.py')


def without_storage(cfg):
    """The config's model on the meta device: shapes, counts and which parameter reaches what, and no arithmetic."""
    with DefaultScope.overwrite_default_scope('mmdet'), torch.device('meta'):
        return MODELS.build(deepcopy(cfg.model)).to('meta')  # SSD's normalisation puts its weights onto the CPU


@pytest.mark.parametrize('data', ['voc0712', 'coco', 'bccd'])
def test_the_head_gets_ssd300s_maps(data):
    image = torch.empty(2, 3, 300, 300, device='meta')
    shapes = []
    for name in (f'ssd300_{data}', f'ssd300_cfsam_{data}'):
        model = without_storage(config(name))
        shapes.append([x.shape for x in model.extract_feat(image)])
    assert shapes[0] == shapes[1] == [(2, width, side, side) for width, side in zip(WIDTHS, SIDES, strict=True)]
    assert sum(side * side for side in SIDES) == 1940
    outputs = model(image)
    classes = {'voc0712': 20, 'coco': 80, 'bccd': 3}[data]
    assert outputs[0][0].shape == (2, 4 * (classes + 1), 38, 38)
    sum(x.sum() for maps in outputs for x in maps).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_both_parts_of_the_neck_are_initialised():
    ssd_neck, cfsam = training_model().neck
    assert (ssd_neck.l2_norm.weight == 2).all(), "SSDNeck's own scale, which MMEngine's Sequential hands on"
    assert all(not conv.bias.any() for conv in cfsam.recover)


def as_mmdet_writes(node):
    """Without scopes and back ends."""
    if isinstance(node, (list, tuple)):
        return [as_mmdet_writes(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: value.rpartition('.')[2] if key == 'type' else as_mmdet_writes(value)
        for key, value in node.items()
        if key not in ('_scope_', 'backend_args')
    }


@pytest.mark.parametrize(
    'name, original', [('ssd300_voc0712', 'pascal_voc/ssd300_voc0712'), ('ssd300_coco', 'ssd/ssd300_coco')]
)
def test_the_baseline_is_mmdetections_model_and_augmentation(name, original):
    ours, theirs = config(name), get_config(f'mmdet::{original}.py')
    assert as_mmdet_writes(ours.model) == as_mmdet_writes(theirs.model)
    data = ours.train_dataloader.dataset
    leaves = data.dataset.datasets if name == 'ssd300_voc0712' else [data]
    assert len(leaves) == (2 if name == 'ssd300_voc0712' else 1)
    for leaf in leaves:
        assert as_mmdet_writes(leaf.pipeline) == as_mmdet_writes(theirs.train_pipeline)
    for loader in (ours.val_dataloader, ours.test_dataloader):
        assert as_mmdet_writes(loader.dataset.pipeline) == as_mmdet_writes(theirs.test_pipeline)


@pytest.mark.parametrize(
    'name, batch_size, epochs, milestones',
    [('voc0712', 48, 260, [130, 220]), ('coco', 16, 120, [60, 102]), ('bccd', 16, 260, [130, 220])],
)
def test_the_papers_recipe(name, batch_size, epochs, milestones):
    cfg, with_cfsam = config(f'ssd300_{name}').to_dict(), config(f'ssd300_cfsam_{name}').to_dict()
    assert with_cfsam['model']['neck'][0] == cfg['model']['neck']
    with_cfsam['model']['neck'] = cfg['model']['neck']
    assert with_cfsam == cfg, 'the baseline differs in the module alone'
    loader = cfg['train_dataloader']
    assert (loader['batch_size'], cfg['train_cfg']['max_epochs']) == (batch_size, epochs)
    assert loader['sampler']['shuffle'] and loader['batch_sampler'] is None
    optimizer = dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=0.0005)
    assert cfg['optim_wrapper'] == dict(type='OptimWrapper', optimizer=optimizer)
    warm_up, steps = cfg['param_scheduler']
    assert (steps['milestones'], steps['gamma'], steps['by_epoch'], steps['end']) == (milestones, 0.1, True, epochs)
    assert not warm_up['by_epoch'] and warm_up['end'] == 500
    if name == 'voc0712':
        years = loader['dataset']['dataset']['datasets']
        assert loader['dataset']['type'] == 'RepeatDataset' and loader['dataset']['times'] == 1
        files = [year['ann_file'] for year in years]
        assert files == [f'VOC{year}/ImageSets/Main/trainval.txt' for year in (2007, 2012)]
        assert cfg['test_dataloader']['dataset']['ann_file'] == 'VOC2007/ImageSets/Main/test.txt'


def test_the_papers_coco_split():
    table = find('cfsam/table3')[0]
    cfg = row_config(table, table.row('cfsam'), Settings(dataset='coco2014_detection'))
    data = cfg.train_dataloader.dataset
    assert (data.ann_file, data.data_prefix.img) == ('annotations/instances_train2014.json', 'train2014/')
    assert data.pipeline == config('ssd300_cfsam_coco').train_dataloader.dataset.pipeline
    for split in ('val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.ann_file == 'annotations/instances_val2014.json'
        assert cfg[f'{split}_evaluator'].ann_file == 'data/coco/annotations/instances_val2014.json'
    assert cfg.train_dataloader.batch_size == 16 and cfg.train_cfg.max_epochs == 120


def test_mmdetections_recipe_of_table_1():
    """24 epochs of data that is repeated ten times, on eight GPUs with eight images."""
    table = find('cfsam/table1')[0]
    theirs = get_config('mmdet::pascal_voc/ssd300_voc0712.py')
    times = theirs.train_dataloader.dataset.times
    for name in ('ssd300_mmdet', 'cfsam_mmdet'):
        cfg = row_config(table, table.row(name))
        assert cfg.train_cfg.max_epochs == theirs.train_cfg.max_epochs * times == 240
        steps, their_steps = cfg.param_scheduler[1], theirs.param_scheduler[1]
        assert steps.milestones == [times * epoch for epoch in their_steps.milestones] and steps.end == 240
        assert cfg.train_dataloader.batch_size == theirs.auto_scale_lr.base_batch_size == 64
        assert cfg.optim_wrapper == theirs.optim_wrapper
    assert isinstance(cfg.model.neck, list)


def metric_names(cfg, classes) -> set[str]:
    """What the config's evaluator reports for one image with one object of each class, all found."""
    metric = METRICS.build({key: value for key, value in cfg.test_evaluator.items() if key != 'ann_file'})
    metric.dataset_meta = dict(classes=classes)
    corners = 20.0 * torch.arange(len(classes))[:, None]
    boxes, labels = corners + torch.tensor([0.0, 0.0, 10.0, 10.0]), torch.arange(len(classes))
    truths = InstanceData(bboxes=boxes, labels=labels)
    sample = dict(
        img_id=0,
        ori_shape=(2000, 2000),
        gt_instances=truths,
        ignored_instances=truths[:0],
        pred_instances=InstanceData(bboxes=boxes, labels=labels, scores=torch.full((len(classes),), 0.9)),
    )
    metric.process({}, [sample])
    found = metric.evaluate(1)
    return {name for name, value in found.items() if value == pytest.approx(1.0, abs=1e-6)}


@pytest.mark.parametrize('number', range(1, 7))
def test_every_column_of_a_table_is_reported(number):
    table = find(f'cfsam/table{number}')[0]
    classes = (CocoDataset if number == 3 else VOCDataset).METAINFO['classes']
    for row in table.select():
        names = metric_names(row_config(table, row), classes)
        assert set(table.metrics.values()) <= names
    if number == 1:
        assert set(table.metrics.values()) == {'voc07/mAP', *(f'voc07/AP/{name}' for name in classes)}
        assert len(classes) == 20 and set(table.scale) == set(table.metrics)


# Hand arithmetic. C: width of a map, S: its side, N: tokens; 256 channels, 384 hidden ones, three layers, two parts.


def convolutions(levels):
    """LFE's 3x3 and 1x1 and the way back, with their biases; operations without, as everywhere."""
    maps = [(WIDTHS[level], SIDES[level] ** 2) for level in levels]
    weights = [(9 * c * c + 256 * c, 256 * c) for c, _ in maps]
    params = sum(there + back + (c + 256) + c for (there, back), (c, _) in zip(weights, maps, strict=True))
    return params, sum(area * (there + back) for (there, back), (_, area) in zip(weights, maps, strict=True))


def transformer(tokens):
    """Query, key, value, output; two linear layers; two norms. Half of the tokens see the same half."""
    weights = 4 * 256**2 + 2 * 256 * 384
    params = weights + 4 * 256 + (384 + 256) + 2 * 2 * 256
    attention = 2 * 256 * tokens * (tokens // 2)
    return 3 * params, 3 * (weights * tokens + attention + 2 * 5 * 256 * tokens)


def fusion(tokens):
    return 512 * 256 + 256, 512 * 256 * tokens


@cache
def cost(table, row):
    """Parameters and multiply-adds of a row of the tables."""
    table = find(f'cfsam/{table}')[0]
    found = complexity(without_storage(count_config(table, table.row(row))), table.counting.input_size)
    assert found.unknown == {}
    return found.params, found.macs


def added(table, row):
    return tuple(ours - plain for ours, plain in zip(cost(table, row), cost('table4', 'ssd300'), strict=True))


def total(*parts):
    return tuple(map(sum, zip(*parts, strict=True)))


def test_table_4():
    """The paper: 26.29 M and 31.37 GMACs without CFSAM, 45.16 M and 45.22 GMACs with it."""
    assert cost('table4', 'ssd300') == (26_285_486, 31_373_537_792)
    assert cost('table4', 'cfsam') == (45_175_342, 44_871_924_224)
    table = find('cfsam/table4')[0]
    for name, tolerance in (('ssd300', 2e-4), ('cfsam', 0.05)):
        params, macs = cost('table4', name)
        paper = table.row(name).paper
        assert params / 1e6 == pytest.approx(paper['params'], rel=min(tolerance, 0.005))
        assert macs / 1e9 == pytest.approx(paper['flops'], rel=tolerance)
    assert all(row.paper['params'] < 100 for row in table.rows if 'params' in row.paper)


def test_table_5_by_hand():
    six = convolutions(range(6))
    assert added('table5', 'lfe') == six
    assert added('table5', 'lfe_gfe') == total(six, transformer(1940))
    assert added('table5', 'cfsam') == total(six, transformer(1940), fusion(1940))
    assert cost('table5', 'cfsam') == cost('table4', 'cfsam') == cost('table6', 'all')


@pytest.mark.parametrize('row, levels, tokens', [('shallow', range(3), 1906), ('deep', range(3, 6), 36)])
def test_table_6_by_hand(row, levels, tokens):
    """1,905 and 35 tokens, which two does not divide: attention and fusion have one more (weighted sums are free)."""
    assert sum(SIDES[level] ** 2 for level in levels) == tokens - 1
    expected = total(convolutions(levels), transformer(tokens), fusion(tokens))
    assert added('table6', row) == expected


def test_the_light_form_is_light():
    params, macs = added('table4', 'cfsam-lite')
    full_params, full_macs = added('table4', 'cfsam')
    assert params < full_params / 10 and macs < full_macs / 10


@pytest.mark.parametrize('name', ['retinanet', 'fcos'])
def test_plug_and_play(name):
    """Behind an FPN of five levels, in the configs' own 16 parts; narrow, and on an image of 96x128."""
    cfg = deepcopy(config(f'{name}_r50_fpn-cfsam_1x_coco'))
    cfg.model.backbone.update(depth=18, base_channels=8, frozen_stages=-1)
    cfg.model.neck[0].update(in_channels=[8, 16, 32, 64], out_channels=16)
    cfg.model.neck[1].update(in_channels=[16] * 5, channels=16, num_heads=2, feedforward_channels=24)
    cfg.model.bbox_head.update(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1, norm_cfg=None)
    model = build_model(cfg).train()
    images, samples = batch([3, 0], size=(96, 128))
    maps = model.neck[0](model.backbone(images))
    assert [x.shape for x in model.neck[1](maps)] == [x.shape for x in maps] and len(maps) == 5
    losses = model.loss(images, samples)
    loss = sum(value for entry in losses.values() for value in (entry if isinstance(entry, list) else [entry]))
    loss.backward()
    assert loss.isfinite()
    silent = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert silent == [] and all(value.grad.any() for value in model.neck[1].parameters())
    found = model.eval().predict(images, samples)
    assert all(len(sample.pred_instances) <= 100 for sample in found) and len(found) == 2


def test_one_level_sees_another():
    """A change of the last map, one pixel wide, reaches every pixel of the first, as in no SSD without CFSAM."""
    model = training_model().eval()
    maps = list(model.neck[0](model.backbone(batch([0])[0])))
    with torch.no_grad():
        before = model.neck[1](maps)[0]
        maps[3] = maps[3] + 1
        after = model.neck[1](maps)[0]
    # ... of its part: 190 tokens, the last of which, at an odd place, is in the second half of them
    changed = (after - before).abs().amax(1).flatten() > 1e-6
    assert changed[1::2].all() and not changed[0::2].any()

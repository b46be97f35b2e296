"""Table 1's other detectors: sizes, classes on both data sets, one step of training, and predictions in pixels."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmscale.analysis.model import build_model
from mmscale.engine.hooks.check_data import class_heads
from mmscale.paths import config_root
from mmscale.reproduce.dataset import resize_images, swap_dataset
from mmscale.reproduce.pretrained import pretrained_files

from ..datasets.tiny import write_image
from ..hsd_detr.test_configs import classes_of, leaves
from ..rtdetr.test_configs import build
from ..test_base_datasets import build_loader, lay_out
from ..trainings import own_process_state

FOLDER = config_root() / 'hmpe' / 'table1'
LAYERS = ('nwpu_vhr10', 'voc0712')
DETECTORS = {  # M parameters with 10 and with 20 classes, images per process, weights of the backbone
    'ssd300_75e': (24.949, 26.285, 8, 'vgg16_caffe'),
    'fcos_x50-32x4d_fpn_75e': (31.608, 31.631, 2, 'resnext50_32x4d'),
    'retinanet_r34_fpn_75e': (30.066, 30.274, 2, 'resnet34'),
    'faster-rcnn_r50_fpn_75e': (41.394, 41.446, 2, 'resnet50'),
    'centernet_r34-dcnv2_75e': (24.541, 24.541, 16, 'resnet34'),
    'yolov3_r50_75e': (45.183, 45.237, 8, 'resnet50'),
    'detr_r50_125e': (41.557, 41.560, 2, 'resnet50'),
    'deformable-detr_r50_125e': (40.101, 40.104, 2, 'resnet50'),
}


@pytest.fixture(autouse=True)
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


@cache
def read(name) -> Config:
    return Config.fromfile(FOLDER / f'{name}_nwpu-vhr10.py')


def load(name) -> Config:
    """One of the configs, a copy."""
    init_default_scope('mmdet')
    return deepcopy(read(name))


def steps(node) -> list[dict]:
    """The transforms of a split's pipelines."""
    return [step for leaf in leaves(node.dataset) for step in leaf.pipeline]


def test_every_file_is_known_here():
    yolos = {path.stem for path in FOLDER.glob('yolov[5678]_*.py')}  # tests/yolo/test_configs.py
    assert {path.stem for path in FOLDER.glob('*.py')} - yolos == {f'{name}_nwpu-vhr10' for name in DETECTORS}


@pytest.mark.parametrize('layer', LAYERS)
@pytest.mark.parametrize('name', DETECTORS)
def test_classes_data_and_size_follow_the_data_set(name, layer):
    """As it stands, and as ``reproduce.py train --dataset`` makes it."""
    cfg, data = load(name), Config.fromfile(FOLDER.parents[1] / '_base_' / 'datasets' / f'{layer}.py')
    if layer != 'nwpu_vhr10':
        swap_dataset(cfg, layer)
    model, classes = build(cfg), classes_of(leaves(data.train_dataloader['dataset'])[0])
    heads = [head.num_classes for _, head in class_heads(model)]
    assert heads and set(heads) == {len(classes)} == {data.num_classes} == {cfg.num_classes}
    for split in ('train', 'val', 'test'):
        assert {classes_of(leaf) for leaf in leaves(cfg[f'{split}_dataloader'].dataset)} == {classes}
        resized = [step for step in steps(cfg[f'{split}_dataloader']) if 'Resize' in step.type]
        side = 300 if name.startswith('ssd300') else 640
        assert resized and all((step.scale, step.keep_ratio) == ((side, side), False) for step in resized)
    for split in ('val', 'test'):
        assert cfg[f'{split}_evaluator'] == data[f'{split}_evaluator'] and 'coco' in cfg[f'{split}_evaluator'].protocols
    params = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert params == pytest.approx(DETECTORS[name][LAYERS.index(layer)], abs=5e-4)


def test_the_tables_parameters_of_the_transformers():
    """What it leaves out: of DETR the attention layers, batch norm and queries, of Deformable DETR what is frozen."""
    detr, deformable = (build(load(name)) for name in ('detr_r50_125e', 'deformable-detr_r50_125e'))
    uncounted = {
        id(parameter)
        for module in detr.modules()
        if isinstance(module, (nn.MultiheadAttention, nn.BatchNorm2d, nn.Embedding))
        for parameter in module.parameters()
    }
    counted = sum(parameter.numel() for parameter in detr.parameters() if id(parameter) not in uncounted)
    trained = sum(parameter.numel() for parameter in deformable.parameters() if parameter.requires_grad)
    assert (round(counted / 1e6, 2), round(trained / 1e6, 2)) == (36.74, 39.83)


@pytest.mark.parametrize('name', DETECTORS)
def test_the_recipe(name):
    cfg, epochs = load(name), int(name.rpartition('_')[2].removesuffix('e'))
    assert cfg.train_cfg.max_epochs == epochs
    assert [step.milestones for step in cfg.param_scheduler if 'milestones' in step] == [[50, 69]] * (epochs == 75)
    assert (cfg.param_scheduler[0].type, cfg.param_scheduler[0].end) == ('LinearLR', 300)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.train_dataloader.batch_size == DETECTORS[name][2] and cfg.train_dataloader.batch_sampler is None
    (weights,) = pretrained_files(cfg)
    assert weights.rpartition('/')[2] == DETECTORS[name][3]
    assert any(hook.type == 'EMAHook' for hook in cfg.custom_hooks) == (epochs == 125)
    assert any(hook.type == 'mmscale.CheckDataHook' for hook in cfg.custom_hooks)


def test_rates_of_the_transformers():
    """RT-DETR's, and a tenth of it where Deformable DETR looks for places."""
    for name in ('detr_r50_125e', 'deformable-detr_r50_125e'):
        cfg = load(name)
        model = build(cfg)
        names = {id(parameter): key for key, parameter in model.named_parameters()}
        slow = set()
        for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups:
            if group['lr'] != cfg.optim_wrapper.optimizer.lr:
                assert group['lr'] == pytest.approx(1e-5)
                slow |= {names[id(parameter)] for parameter in group['params']}
        parts = ('backbone.', *(('sampling_offsets', 'reference_points') if name.startswith('deformable') else ()))
        trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
        assert slow == {key for key in trained if any(part in key for part in parts)}
        assert {part for part in parts if any(part in key for key in slow)} == set(parts)


@pytest.mark.parametrize('name', DETECTORS)
def test_a_step_of_training_and_the_metrics(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load(name)
    if not name.startswith('ssd300'):  # whose last map would have no pixel
        resize_images(cfg, (64, 64))
    lay_out('nwpu_vhr10', classes_of(leaves(cfg.train_dataloader.dataset)[0]))
    model = build_model(cfg).train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    losses = model.train_step(next(iter(build_loader(cfg.train_dataloader))), optimizer)
    assert losses['loss'] > 0 and all(loss.isfinite().all() for loss in losses.values())
    model.eval()
    loader, evaluator = build_loader(cfg.test_dataloader), Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = loader.dataset.metainfo
    for batch in loader:
        evaluator.process(model.test_step(batch), batch)
    assert {'coco/AP', 'coco/AP50', 'voc12/mAP'} <= set(evaluator.evaluate(len(loader.dataset)))


def test_centernet_predicts_in_the_images_own_pixels(tmp_path):
    """Its head subtracts a border and divides by the scale: a peak in the map is a box at its place in the image."""
    cfg = load('centernet_r34-dcnv2_75e')
    write_image(tmp_path / 'image.jpg', width=96, height=48)
    pipeline = [step for step in cfg.test_dataloader.dataset.pipeline if 'LoadAnnotations' not in step.type]
    meta = Compose(pipeline)(dict(img_path=str(tmp_path / 'image.jpg'), img_id=0))['data_samples'].metainfo
    assert meta['img_shape'] == (640, 640) and list(meta['border']) == [0, 640, 0, 640]
    head = MODELS.build(dict(cfg.model.bbox_head, test_cfg=cfg.model.test_cfg))
    heat, size, offset = torch.zeros(1, 10, 160, 160), torch.zeros(1, 2, 160, 160), torch.zeros(1, 2, 160, 160)
    heat[0, 7, 40, 80], size[0, :, 40, 80] = 1, torch.tensor([20.0, 40.0])  # row 40, column 80, in steps of 4 pixels
    found = head.predict_by_feat([heat], [size], [offset], [dict(meta, batch_input_shape=(640, 640))])[0]
    assert found.labels[0] == 7 and found.scores[0] == 1
    torch.testing.assert_close(found.bboxes[0], torch.tensor([70 * 96.0, 20 * 48.0, 90 * 96.0, 60 * 48.0]) / 160)

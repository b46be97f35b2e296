"""The YOLOs' configs, those of FINE's and HMPE's tables included: they build, train, and keep their comments' word."""

import re
from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope, init_default_scope

from mmscale.analysis.model import build_model
from mmscale.engine.hooks.check_data import class_heads
from mmscale.paths import config_root
from mmscale.registry import HAS_MMYOLO
from mmscale.reproduce.complexity import count
from mmscale.reproduce.dataset import resize_images
from mmscale.reproduce.pretrained import pretrained_files
from mmscale.reproduce.spec import find

from ..hsd_detr.test_configs import classes_of, leaves
from ..test_base_datasets import build_loader, lay_out
from ..trainings import own_process_state

if not HAS_MMYOLO:
    pytest.skip('mmyolo, which the YOLOs stand on, is not installed', allow_module_level=True)

ROOT = config_root()
LAYERS = {
    'coco': 'coco_detection',
    'bccd': 'bccd',
    'small-objects': 'small_objects',
    'visdrone-800x800': 'visdrone_det',
    'visdrone': 'visdrone_det',
    'nwpu-vhr10': 'nwpu_vhr10',
    'micro-uav': 'micro_uav',
}
BASES = {'yolov5_s': 0.5, 'yolov7_l': 0.3}  # models whose class loss is weighted by the number of classes over 80
SCALES = {  # parameters; scaling by 1 -+ this; probabilities of MixUp and copy-paste, None where there is none
    'yolov8_n': (3_157_184, 0.5, None, None),
    'yolov8_s': (11_166_544, 0.5, None, None),
    'yolov8_m': (25_902_624, 0.9, 0.1, 0.1),
    'yolov8_l': (43_691_504, 0.9, 0.15, 0.3),
    # the paper's table 14; the released models' numbers but for the 16 constants of the distribution's bins
    'yolov10_n': (2_775_520 - 16, 0.5, None, None),
    'yolov10_s': (8_128_272 - 16, 0.5, None, None),
    'yolov10_m': (16_576_768 - 16, 0.9, 0.1, 0.1),
    'yolov10_b': (20_574_384 - 16, 0.9, 0.1, 0.1),
    'yolov10_l': (25_888_688 - 16, 0.9, 0.15, 0.3),
    'yolov10_x': (31_808_960 - 16, 0.9, 0.15, 0.3),
    'yolov12_n': (2_553_904 - 16, 0.5, 0.0, 0.1),
    'yolov12_s': (9_127_424 - 16, 0.9, 0.05, 0.15),
    'yolov12_m': (19_670_784 - 16, 0.9, 0.15, 0.4),
    'yolov12_l': (26_506_496 - 16, 0.9, 0.15, 0.5),
    'yolov12_x': (59_414_176 - 16, 0.9, 0.2, 0.6),
}
NARROW = 0.125


def names(folder, pattern) -> list[str]:
    """The configs of a folder by their place in ``configs``, without the ending."""
    return sorted(str(path.relative_to(ROOT).with_suffix('')) for path in (ROOT / folder).glob(pattern))


NAMES = [*names('yolo', '*.py'), *names('fine', '*yolo*.py'), *names('hmpe/table1', 'yolov[5678]*.py')]
LONG = [name for name in NAMES if '_8e_' not in name]  # by the YOLOs' recipe
TRAINED = [  # one of every family and recipe
    'yolo/yolov8_n_8e_bccd',
    'yolo/yolov8_n_8e_small-objects',
    'yolo/yolov8_m_8xb16-500e_coco',
    'yolo/yolov10_n_8xb32-500e_coco',
    'yolo/yolov10_x_8xb32-500e_coco',
    'yolo/yolov12_x_8xb32-600e_coco',
    *(name for name in NAMES if name.startswith(('fine/', 'hmpe/')) and not name.endswith('_coco')),
    *(name for name in NAMES if name.startswith('fine/') and name.endswith('_coco')),
]


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


@cache
def read(name) -> Config:
    return Config.fromfile(ROOT / f'{name}.py')


def load(name) -> Config:
    """One of the configs, a copy."""
    cfg = deepcopy(read(name))
    init_default_scope(cfg.default_scope)
    return cfg


def skeleton(cfg):
    """The model without weights: a large one takes no time."""
    with DefaultScope.overwrite_default_scope('mmyolo'), torch.device('meta'):
        return MODELS.build(deepcopy(cfg.model))


@cache
def parameters(name) -> int:
    return sum(parameter.numel() for parameter in skeleton(read(name)).parameters())


def layer_of(name) -> str:
    return LAYERS[re.split(r'\de_', name)[1]]


def transforms(pipeline, ending) -> list[dict]:
    """The transforms of a pipeline whose type ends so, those of the mixed images included."""
    nested = [step for step in pipeline if step.get('pre_transform')]
    found = [step for step in pipeline if step.type.endswith(ending)]
    return found + [step for outer in nested for step in transforms(outer.pre_transform, ending)]


def hook_of(cfg, ending) -> dict:
    (hook,) = (hook for hook in cfg.custom_hooks if hook.type.endswith(ending))
    return hook


def check_classes(cfg, layer):
    """Data, head, assigners and the losses that follow the number of classes; the model gives a map for each."""
    data = Config.fromfile(ROOT / '_base_' / 'datasets' / f'{layer}.py')
    expected = classes_of(leaves(data.train_dataloader['dataset'])[0])
    total = len(expected)
    for split in ('train', 'val', 'test'):
        theirs = leaves(data[f'{split}_dataloader']['dataset'])
        for leaf, other in zip(leaves(cfg[f'{split}_dataloader']['dataset']), theirs, strict=True):
            assert classes_of(leaf) == expected
            assert (leaf.ann_file, leaf.data_root) == (other.ann_file, other.data_root)
    assert cfg.val_evaluator == data.val_evaluator and cfg.test_evaluator == data.test_evaluator
    assert cfg.model.bbox_head.head_module.num_classes == data.num_classes == total
    assigners = [key for key in cfg.model.get('train_cfg', {}) if key.endswith('assigner')]
    assert all(cfg.model.train_cfg[key].num_classes == total for key in assigners)
    model = skeleton(cfg)
    heads = dict(class_heads(model))
    assert {head.num_classes for head in heads.values()} == {total}
    assert sum('assigner' in key for key in heads) >= len(assigners)
    check_class_loss(model.bbox_head, total)
    scores, *_ = model.eval()(torch.zeros(1, 3, 64, 64, device='meta'), mode='tensor')
    priors = getattr(model.bbox_head, 'num_base_priors', 1)
    assert [level.shape for level in scores] == [(1, priors * total, side, side) for side in (8, 4, 2)]


def check_class_loss(head, classes):
    """Of YOLOv5 and YOLOv7, as their comments say; all others have a weight of their own."""
    weight = {'YOLOv5Head': 0.5, 'YOLOv7Head': 0.3}.get(type(head).__name__)
    if weight is not None:
        assert head.loss_cls.loss_weight == pytest.approx(weight * classes / 80)


def check_recipe(cfg, epochs, batch, last=10):
    """What has to agree with the length of the run and the batch."""
    assert cfg.default_scope == 'mmyolo' and cfg.param_scheduler is None
    assert cfg.train_cfg.max_epochs == cfg.default_hooks.param_scheduler.max_epochs == epochs
    assert cfg.train_dataloader.batch_size == batch and not cfg.train_dataloader.batch_sampler
    assert cfg.train_dataloader.persistent_workers is False, 'a resumed run equals an uninterrupted one'
    assert cfg.optim_wrapper.constructor == 'mmscale.YOLOOptimWrapperConstructor'
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'AdamW' or optimizer.batch_size_per_gpu == batch
    switch, average = hook_of(cfg, 'PipelineSwitchHook'), hook_of(cfg, 'EMAHook')
    assert switch.switch_epoch == epochs - last and cfg.train_cfg.dynamic_intervals == [(epochs - last, 1)]
    assert (average.ema_type, average.momentum, average.update_buffers) == ('mmyolo.ExpMomentumEMA', 0.0001, True)
    hook_of(cfg, 'CheckDataHook')
    assert pretrained_files(cfg) == []


def check_augmentation(cfg, affine, mixup, paste, size=(640, 640)):
    """Strengths and sizes, in the main pipeline, in that of the mixed images, and after the switch."""
    main = leaves(cfg.train_dataloader.dataset)[0].pipeline
    second = hook_of(cfg, 'PipelineSwitchHook').switch_pipeline
    mixes, pastes = transforms(main, 'MixUp'), transforms(main, 'CopyPaste')
    assert [mix.prob for mix in mixes] == ([] if mixup is None else [mixup])
    assert [step.prob for step in pastes] == ([] if paste is None else [paste, paste])
    affines = transforms(main, 'RandomAffine')
    assert len(affines) == len(transforms(main, 'Mosaic')) == 1 + len(mixes)
    for step in affines:
        assert step.border == (-size[0] // 2, -size[1] // 2)
    (last,) = transforms(second, 'RandomAffine')
    assert 'border' not in last
    for step in (*affines, last):
        assert step.scaling_ratio_range == pytest.approx((1 - affine, 1 + affine))
        assert (step.max_rotate_degree, step.max_shear_degree) == (0, 0)
    assert all(step.img_scale == size for step in transforms(main, 'Mosaic'))
    tests = [leaves(cfg[f'{split}_dataloader'].dataset)[0].pipeline for split in ('val', 'test')]
    for pipeline in (second, *tests):
        assert [step.scale for step in transforms(pipeline, 'Resize')] == [size] * 2
    masks = [bool(step.get('with_mask')) for step in transforms(main, 'LoadAnnotations')]
    assert masks == [paste is not None] * (1 + len(affines) + len(mixes))
    assert not any(step.get('with_mask') for step in transforms(second, 'LoadAnnotations'))
    assert len(transforms(main, 'RemoveDataElement')) == (paste is not None)


def train_and_test_once(name, folder, monkeypatch):
    """A step on two images of 64x64, one of them without objects, and the metrics; the model is narrow."""
    monkeypatch.chdir(folder)
    cfg = load(name)
    resize_images(cfg, (64, 64))
    for part in (cfg.model.backbone, cfg.model.neck, cfg.model.bbox_head.head_module):
        part.widen_factor = NARROW
    for leaf in leaves(cfg.train_dataloader.dataset):
        leaf.filter_cfg = dict(filter_empty_gt=False)
    lay_out(layer_of(name), classes_of(leaves(cfg.train_dataloader.dataset)[0]))
    model = build_model(cfg).train()
    optimizer = build_optim_wrapper(model, deepcopy(cfg.optim_wrapper))
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    # YOLOv6's first assigner, which looks for nine positions at every stride, is for its first epochs
    MessageHub.get_current_instance().update_info('epoch', 5)
    loader = build_loader(cfg.train_dataloader)
    batch = next(iter(loader))
    assert len(loader.dataset) == len(batch['inputs']) == 2
    size = (48, 64) if name.endswith('8e_small-objects') else (64, 64)  # as the images of 64x48, or square
    assert {tuple(image.shape[1:]) for image in batch['inputs']} == {size}
    losses = model.train_step(batch, optimizer)
    assert losses['loss'] > 0 and all(loss.isfinite().all() for loss in losses.values())
    moved = {key.split('.')[0] for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert moved == {'backbone', 'neck', 'bbox_head'}
    model.eval()
    loader, evaluator = build_loader(cfg.test_dataloader), Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = loader.dataset.metainfo
    for batch in loader:
        for sample in batch['data_samples']:  # in the image's own pixels
            for box in sample.gt_instances.bboxes.tensor:
                torch.testing.assert_close(box, torch.tensor([5.0, 5, 25, 25]))
        evaluator.process(model.test_step(batch), batch)
    assert {'coco/AP', 'coco/AP50'} <= set(evaluator.evaluate(len(loader.dataset)))


def test_every_scale_is_known_here():
    found = {name.split('/')[1].split('_8xb')[0] for name in NAMES if name.startswith('yolo/') and name in LONG}
    assert found == set(SCALES)


@pytest.mark.parametrize('name', sorted(path.stem for path in (ROOT / '_base_' / 'models').glob('yolo*.py')))
def test_a_model_layer_builds(name):
    head = skeleton(Config.fromfile(ROOT / '_base_' / 'models' / f'{name}.py')).bbox_head
    assert head.num_classes == 80
    check_class_loss(head, 80)
    assert (name in BASES) == (type(head).__name__ in ('YOLOv5Head', 'YOLOv7Head'))


@pytest.mark.parametrize('name', NAMES)
def test_a_configs_classes_agree_everywhere_and_it_runs(name):
    check_classes(load(name), layer_of(name))


@pytest.mark.parametrize('scale', SCALES)
def test_parameters_and_augmentation_of_a_scale(scale):
    params, *augmentation = SCALES[scale]
    (name,) = (name for name in LONG if name.startswith(f'yolo/{scale}_'))
    assert parameters(name) == params
    check_augmentation(load(name), *augmentation)


@pytest.mark.parametrize('name', LONG)
def test_the_recipe(name):
    batch, epochs = re.search(r'(?:_8xb(\d+)-|_)(\d+)e_', name).groups()
    cfg = load(name)
    check_recipe(cfg, int(epochs), int(batch or 16))
    optimizer, hook = cfg.optim_wrapper.optimizer, cfg.default_hooks.param_scheduler
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.nesterov) == ('SGD', 0.01, 0.937, True)
    assert optimizer.weight_decay == 0.0005 and cfg.optim_wrapper.clip_grad.max_norm == 10
    assert (hook.scheduler_type, hook.lr_factor, hook.warmup_epochs) == ('linear', 0.01, 3)
    assert hook.get('warmup_bias_lr', 0.1) == (0.0 if 'yolov12_' in name else 0.1)  # as each paper's table
    if not name.startswith('yolo/'):
        scale = re.search('yolov1[02]_s', name)
        strength = SCALES[scale[0]][1:] if scale else (0.5, None, None)
        check_augmentation(cfg, *strength, size=(800, 800) if name.endswith('800x800') else (640, 640))
    filters = leaves(cfg.train_dataloader.dataset)[0].filter_cfg
    assert filters.filter_empty_gt is name.startswith('hmpe/')


@pytest.mark.parametrize('name', TRAINED)
def test_a_step_of_training_and_the_metrics(name, tmp_path, monkeypatch):
    train_and_test_once(name, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    'fine, plain, added',
    [
        # two modules of 8 C^2 weights and 8 C biases, and the 1x1 convolutions between widths that differ
        ('yolov8_s_fine_8xb16-500e_coco', 'yolo/yolov8_s_8xb16-500e_coco', 822_656),
        ('yolov10_s_fine_8xb32-500e_coco', 'yolo/yolov10_s_8xb32-500e_coco', 822_656),
        ('yolov12_s_fine_8xb32-600e_coco', 'yolo/yolov12_s_8xb32-600e_coco', 1_184_000),
        ('yolov5u_s_fine_100e_visdrone-800x800', 'fine/yolov5u_s_100e_visdrone-800x800', 658_432),
        ('yolov6_s_fine_100e_visdrone-800x800', 'fine/yolov6_s_100e_visdrone-800x800', 699_776),
        ('yolov8_s_fine_100e_visdrone-800x800', 'fine/yolov8_s_100e_visdrone-800x800', 822_656),
        ('yolov8_s_fine_8e_bccd', 'yolo/yolov8_s_8e_bccd', 822_656),
        ('yolov8_s_fine_8e_small-objects', 'yolo/yolov8_s_8e_small-objects', 822_656),
    ],
)
def test_fine_is_all_that_its_configs_add(fine, plain, added):
    ours, theirs = deepcopy(read(f'fine/{fine}')), read(plain)
    assert parameters(f'fine/{fine}') - parameters(plain) == added
    assert ours.model.neck.pop('type').startswith('mmscale.FINE')
    assert ours.model.neck == {key: value for key, value in theirs.model.neck.items() if key != 'type'}
    ours.model.neck = theirs.model.neck
    assert ours.to_dict() == theirs.to_dict()


@pytest.mark.parametrize(
    'row, params, gflops, macs', [('yolov10-s', 8.1, 24.8, None), ('yolov12-s', 9.1, 19.4, 21.556)]
)
def test_costs_are_the_papers(row, params, gflops, macs):
    """FINE's table 1, as ``reproduce.py complexity`` counts it: YOLOv10's both heads, YOLOv12's convolutions alone."""
    (table,) = find('fine/table1-realtime')
    (cost,) = count([replace(table, rows=(table.row(row),))], jobs=1, progress=False)[table.name]
    assert cost.error is None and cost.result['unknown'] == {}
    assert cost.ours['params'] == pytest.approx(params, rel=0.02) == cost.row.paper['params']
    assert cost.ours['flops'] == pytest.approx(gflops, rel=0.02) == cost.row.paper['flops']
    if macs:
        assert 2 * cost.result['macs'] / 1e9 == pytest.approx(macs, abs=0.001), 'with its attention and norms'


@pytest.mark.parametrize('name', ['yolo/yolov8_s_8xb16-500e_coco', 'yolo/yolov12_n_8xb32-600e_coco'])
def test_a_letterbox_is_grey(name):
    """OpenCV fills the first channel alone with a float."""
    cfg = load(name)
    pipelines = [hook_of(cfg, 'PipelineSwitchHook').switch_pipeline, cfg.val_dataloader.dataset.pipeline]
    for pipeline in pipelines:
        (step,) = (step for step in pipeline if step.type.endswith('LetterResize'))
        image = np.full((320, 640, 3), 200, np.uint8)
        out = TRANSFORMS.build(step)(dict(img=image, img_shape=(320, 640)))['img']
        assert out.shape == (640, 640, 3) and out[0, 0].tolist() == [114, 114, 114]

"""The YOLOs' whole recipe by the real engine, on small images: mosaic, warm-up, average, switch, kill, AMP, groups."""

from copy import deepcopy
from functools import cache
from math import isfinite
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, DefaultScope
from torch import nn

from mmscale.analysis.model import build_model
from mmscale.engine.checkpoint import load_checkpoint
from mmscale.engine.train import build_parser, prepare, train
from mmscale.hsd_detr.ss2d import SS2D
from mmscale.layers import RMSNorm2d
from mmscale.paths import config_root
from mmscale.registry import HAS_MMYOLO
from mmscale.reproduce.dataset import resize_images, swap_dataset
from mmscale.reproduce.schedule import fit_schedule, set_epochs
from mmscale.yolo import optim
from mmscale.yolo.optim import YOLOOptimWrapperConstructor

from ..rtdetr.small import images, not_finite, samples, without_gradient
from ..trainings import equal, half_empty_images, kill_at, own_process_state, same_end, train_in_two_processes

if not HAS_MMYOLO:
    pytest.skip('mmyolo, which the YOLOs stand on, is not installed', allow_module_level=True)

from mmyolo.datasets.transforms import Mosaic

CLASSES = 4
NARROW = 0.125
EPOCHS, STEPS, SWITCH = 3, 3, 2  # of three steps with two images each, the last epoch without mosaic
RECIPES = {
    'v8 + FINE': 'fine/yolov8_s_fine_8xb16-500e_coco.py',
    'v10': 'yolo/yolov10_s_8xb32-500e_coco.py',
    'v12': 'yolo/yolov12_l_8xb32-600e_coco.py',  # with gamma, masks, copy-paste and MixUp
    'CSF-Net': 'csf_net/csf-net_n_80e_micro-uav.py',  # AdamW, one cosine, MixUp
}
FILES = {
    **RECIPES,
    'v5u + FINE': 'fine/yolov5u_s_fine_100e_visdrone-800x800.py',
    'v6 + FINE': 'fine/yolov6_s_fine_100e_visdrone-800x800.py',
    'v10 + FINE': 'fine/yolov10_s_fine_8xb32-500e_coco.py',
    'v12 + FINE': 'fine/yolov12_s_fine_8xb32-600e_coco.py',
}
LOSSES = {'loss_cls', 'loss_bbox', 'loss_dfl'}
RATES = {'v8 + FINE': 0.01 * 0.34, 'v10': 0.01 * 0.34, 'v12': 0.01 * 0.34, 'CSF-Net': 0.001 * 0.2575}  # at the end


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Six images, every second one without its object."""
    return half_empty_images(tmp_path_factory.mktemp('small') / 'data')


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


@cache
def read(kind) -> Config:
    """A kind's config, narrow and for the four classes of the small objects; copy-paste keeps its masks."""
    cfg = Config.fromfile(config_root() / FILES[kind])
    pipeline = deepcopy(cfg.train_dataloader.dataset.pipeline)
    swap_dataset(cfg, 'small_objects')
    cfg.train_dataloader.dataset.pipeline = pipeline
    for part in (cfg.model.backbone, cfg.model.neck, cfg.model.bbox_head.head_module):
        part.widen_factor = NARROW
    return cfg


def switch_of(cfg):
    (switch,) = (hook for hook in cfg.custom_hooks if hook.type.endswith('PipelineSwitchHook'))
    return switch


def recipe(kind, data) -> Config:
    """The kind's own recipe in three epochs of six images of 64x64."""
    cfg = deepcopy(read(kind))
    resize_images(cfg, (64, 64))
    set_epochs(cfg, EPOCHS)
    fit_schedule(cfg, STEPS)
    for split in ('train', 'val'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(data), serialize_data=False)
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=False)
    cfg.val_evaluator.ann_file = f'{data}/annotations/val.json'
    cfg.update(test_cfg=None, test_dataloader=None, test_evaluator=None, randomness=dict(seed=3))
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=-1, save_best=None)
    cfg.default_hooks.logger.interval = 1
    cfg.train_cfg.val_interval = EPOCHS
    switch_of(cfg).switch_epoch = SWITCH
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type.endswith('MixUp'):
            step.prob = 0.5  # that it happens in a few steps
    return cfg


def as_text(cfg) -> str:
    return '\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items())


def run(kind, data, folder, *options, extra=''):
    """Train with ``folder`` as the work folder; gives the runner."""
    file = folder.with_suffix('.py')
    file.write_text(f'{as_text(recipe(kind, data))}\n{extra}\n')
    return train(prepare(build_parser().parse_args([str(file), '--work-dir', str(folder), *options])))


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """An uninterrupted run of a kind, trained once: its folder, what it logged, and what its last epoch saw."""
    done = {}

    def whole(kind):
        if kind not in done:
            folder = tmp_path_factory.mktemp('whole') / 'run'
            mixed, original = [], Mosaic.mix_img_transform
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    Mosaic,
                    'mix_img_transform',
                    lambda self, results: mixed.append(results['mix_results']) or original(self, results),
                )
                runner = run(kind, data, folder)
            done[kind] = SimpleNamespace(
                last=folder / f'epoch_{EPOCHS}.pth',
                scalars={name: log.data[0].tolist() for name, log in runner.message_hub.log_scalars.items()},
                rates=[group['lr'] for group in runner.optim_wrapper.optimizer.param_groups],
                steps=[type(step).__name__ for step in runner.train_dataloader.dataset.pipeline.transforms],
                mosaics=len(mixed),
            )
        return done[kind]

    return whole


@pytest.mark.parametrize('kind', RECIPES)
def test_the_whole_recipe(kind, whole):
    """Half of the images have no object."""
    found = whole(kind)
    seen = {name.removeprefix('train/') for name in found.scalars if 'loss' in name} - {'loss'}
    assert seen == LOSSES | ({f'one_to_one.{name}' for name in LOSSES} if kind == 'v10' else set())
    for name in seen | {'loss', 'grad_norm'}:
        values = found.scalars[f'train/{name}']
        assert len(values) == EPOCHS * STEPS and all(isfinite(value) for value in values)
    assert max(found.scalars['train/loss_bbox']) > 0.5 and all(loss > 0 for loss in found.scalars['train/loss'])
    assert 'val/coco/AP' in found.scalars
    # the switch, and what stands in mosaic's place
    with_mosaic = 2 * STEPS * SWITCH
    if kind in ('v12', 'CSF-Net'):  # every MixUp makes one more
        assert with_mosaic < found.mosaics < 2 * with_mosaic
    else:
        assert found.mosaics == with_mosaic
    assert found.steps[:4] == ['LoadImageFromFile', 'LoadAnnotations', 'YOLOv5KeepRatioResize', 'LetterResize']
    assert 'YOLOv5RandomAffine' in found.steps and 'Mosaic' not in found.steps
    # warm-up from zero, then the scheduler's rate of the epoch before
    assert found.scalars['train/lr'][0] == 0 and found.rates == pytest.approx([RATES[kind]] * 3)
    # the average: saved as the weights, the trained ones beside it
    checkpoint = load_checkpoint(found.last)
    average, trained = checkpoint['state_dict'], checkpoint['ema_state_dict']
    assert trained['steps'] == EPOCHS * STEPS
    assert {f'module.{name}' for name in average} | {'steps'} == set(trained)
    moved = [name for name, value in average.items() if not torch.equal(value, trained[f'module.{name}'])]
    assert len(moved) > 0.7 * len(average) and any(name.endswith('running_mean') for name in moved)
    assert all(value.isfinite().all() for value in (*average.values(), *trained.values()))


@pytest.mark.parametrize('kind', RECIPES)
def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(kind, whole, data, tmp_path):
    """Resumed before the switch, or after it."""
    kill_at(7 if kind in ('v10', 'v12') else 4)
    with pytest.raises(KeyboardInterrupt):
        run(kind, data, tmp_path / 'killed', extra="custom_hooks.append(dict(type='Kill'))")
    assert not (tmp_path / 'killed' / f'epoch_{EPOCHS}.pth').exists()
    run(kind, data, tmp_path / 'killed', '--resume')
    first, second = (load_checkpoint(path) for path in (whole(kind).last, tmp_path / 'killed' / 'epoch_3.pth'))
    same_end(first, second)
    assert equal(first['ema_state_dict'], second['ema_state_dict'])
    assert second['meta']['iter'] == EPOCHS * STEPS


def test_with_workers_as_well(data, tmp_path):
    """MMYOLO's transforms draw from numpy, in the loader's workers."""
    workers = 'train_dataloader.update(num_workers=2)\nval_cfg = val_dataloader = val_evaluator = None\n'
    kind = 'v8 + FINE'
    run(kind, data, tmp_path / 'whole', extra=workers)
    kill_at(4)
    with pytest.raises(KeyboardInterrupt):
        run(kind, data, tmp_path / 'killed', extra=f"{workers}custom_hooks.append(dict(type='Kill'))")
    run(kind, data, tmp_path / 'killed', '--resume', extra=workers)
    same_end(*(load_checkpoint(tmp_path / name / 'epoch_3.pth') for name in ('whole', 'killed')))


@pytest.mark.parametrize('kind', RECIPES)
def test_mixed_precision(kind, data, tmp_path):
    runner = run(kind, data, tmp_path / 'amp', '--amp', extra='train_cfg.update(max_epochs=1, val_interval=1)')
    assert type(runner.optim_wrapper).__name__ == 'AmpOptimWrapper'
    losses = runner.message_hub.get_scalar('train/loss').data[0].tolist()
    assert len(losses) == STEPS and all(isfinite(loss) and loss > 0 for loss in losses)
    checkpoint = load_checkpoint(tmp_path / 'amp' / 'epoch_1.pth')
    for value in (*checkpoint['state_dict'].values(), *checkpoint['ema_state_dict'].values()):
        assert value.isfinite().all() and value.dtype != torch.bfloat16


def test_a_switch_reaches_the_data_sets_within_a_wrapper(data, tmp_path, monkeypatch):
    """VOC's is repeated and concatenated."""
    cfg = recipe('v8 + FINE', data)
    inner = dict(type='mmdet.ConcatDataset', datasets=[cfg.train_dataloader.dataset])
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=inner)
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    mixed, original = [], Mosaic.mix_img_transform

    def count(self, results):
        mixed.append(results['img_id'])
        return original(self, results)

    monkeypatch.setattr(Mosaic, 'mix_img_transform', count)
    (tmp_path / 'wrapped.py').write_text(as_text(cfg))
    train(prepare(build_parser().parse_args([str(tmp_path / 'wrapped.py'), '--work-dir', str(tmp_path / 'run')])))
    assert len(mixed) == 2 * STEPS * SWITCH


def test_two_processes_one_of_which_never_sees_an_object(data, tmp_path, repo):
    """Without mosaic from the start, which would put the others' objects into its images."""
    cfg = recipe('v10 + FINE', data)
    switch_of(cfg).switch_epoch = 0
    train_in_two_processes(as_text(cfg), 'custom_hooks.append({})', tmp_path, repo)


# Any batch ------------------------------------------------------------------------------------------------------------


def network(kind) -> nn.Module:
    return build_model(read(kind)).train()


@pytest.mark.parametrize('kind', FILES)
def test_every_parameter_takes_part_in_any_batch(kind):
    """Also where no image has an object, which DistributedDataParallel would not forgive; and under autocast."""
    plain = {}
    MessageHub.get_current_instance().update_info('epoch', 5)  # of YOLOv6's two assigners the second, as the others'
    for amp in (False, True):
        torch.manual_seed(0)
        model = network(kind)  # anew: heads keep what they computed for a size
        for counts in ((3, 1), (0, 2), (0, 0)):
            model.zero_grad()
            with DefaultScope.overwrite_default_scope('mmyolo'), torch.autocast('cpu', torch.bfloat16, enabled=amp):
                losses = model.loss(images(), samples(counts, classes=CLASSES))
            assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
            assert (losses['loss_bbox'] > 0) == any(counts)
            sum(losses.values()).backward()
            assert without_gradient(model) == [] and not_finite(model) == []
        plain[amp] = losses['loss_cls'].item()
    assert plain[True] == pytest.approx(plain[False], rel=0.05)  # of no objects: nothing is assigned


# The optimizer --------------------------------------------------------------------------------------------------------


def grouped(model, cfg, constructor=None) -> tuple[list[set[str]], list[dict]]:
    """Names of every group's parameters, and the groups."""
    options = deepcopy(cfg)
    options.constructor = constructor or options.constructor
    with DefaultScope.overwrite_default_scope('mmyolo'):
        groups = build_optim_wrapper(model, options).optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{names[id(parameter)] for parameter in group['params']} for group in groups], groups


@pytest.mark.parametrize('kind', FILES)
def test_no_parameter_is_left_out_of_the_optimizer(kind):
    model = network(kind)
    (weights, norms, biases), groups = grouped(model, read(kind).optim_wrapper)
    everything = dict(model.named_parameters())
    assert weights | norms | biases == set(everything)
    assert sum(len(group['params']) for group in groups) == len(everything), 'each in one group'
    assert biases == {name for name in everything if name.endswith('bias')}
    modules = dict(model.named_modules())
    kinds = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    of_norms = {name for name in everything if isinstance(modules[name.rpartition('.')[0]], kinds)}
    assert norms == of_norms - biases and norms and weights
    assert [group['weight_decay'] for group in groups] == [0.0005, 0, 0]


def test_what_a_part_keeps_from_decay():
    """A state space's rates and a norm of ours, put into a YOLO."""
    model = nn.Sequential(RMSNorm2d(16), SS2D(16))
    (weights, norms, biases), _ = grouped(model, read('v8 + FINE').optim_wrapper)
    kept = {f'1.{name}' for name in model[1].no_weight_decay}
    assert kept and {'0.weight', *kept} <= norms
    assert weights | norms | biases == set(dict(model.named_parameters()))
    assert '1.in_proj.weight' in weights


def test_what_mmyolos_own_constructor_leaves_out():
    """Whatever is called neither weight nor bias: YOLOv12's gamma, the projections of PyTorch's attention."""
    model, options = network('v12'), read('v12').optim_wrapper
    model.extra = nn.MultiheadAttention(8, 2)
    ours, theirs = (set.union(*grouped(model, options, name)[0]) for name in (None, 'YOLOv5OptimizerConstructor'))
    assert ours == set(dict(model.named_parameters()))
    gammas = {'backbone.stage3.1.gamma', 'backbone.stage4.1.gamma'}
    assert ours - theirs == {*gammas, 'extra.in_proj_weight', 'extra.in_proj_bias'}


@pytest.mark.parametrize(
    'processes, images, scale', [(1, 16, 1), (8, 16, 2), (8, 32, 4), (1, 24, 1.125), (1, 48, 0.75), (1, 2, 1)]
)
def test_weight_decay_grows_with_the_batch(processes, images, scale, monkeypatch):
    """0.0005 for 64 images; as MMYOLO has it."""
    from mmyolo.engine.optimizers import yolov5_optim_constructor as theirs

    options = deepcopy(read('v8 + FINE').optim_wrapper)
    options.optimizer.batch_size_per_gpu = images
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    for module, constructor in ((optim, None), (theirs, 'YOLOv5OptimizerConstructor')):
        monkeypatch.setattr(module, 'get_world_size', lambda: processes)
        groups = grouped(model, options, constructor)[1]
        assert [group['weight_decay'] for group in groups] == pytest.approx([0.0005 * scale, 0, 0])
    options.paramwise_cfg = dict(base_total_batch_size=2 * 64 * scale)
    monkeypatch.setattr(optim, 'get_world_size', lambda: 1)
    options.optimizer.batch_size_per_gpu = round(64 * scale)
    assert grouped(model, options)[1][0]['weight_decay'] == pytest.approx(0.0005)
    options.optimizer.pop('batch_size_per_gpu')
    assert grouped(model, options)[1][0]['weight_decay'] == pytest.approx(0.0005)


def test_frozen_and_shared_parameters():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2, bias=False), nn.LayerNorm(2)])
    model[1].weight = model[0].weight
    model[2].bias.requires_grad = False
    names, groups = grouped(model, read('v8 + FINE').optim_wrapper)
    assert names == [{'0.weight'}, {'2.weight'}, {'0.bias'}]
    assert [len(group['params']) for group in groups] == [1, 1, 1]


def test_mistakes_in_the_optimizers_options():
    with pytest.raises(ValueError, match="optim_wrapper has no 'optimizer'"):
        YOLOOptimWrapperConstructor(dict(type='OptimWrapper'))
    with pytest.raises(ValueError, match="no option 'norm_decay_mult'; its option is base_total_batch_size"):
        YOLOOptimWrapperConstructor(dict(optimizer=dict(type='SGD', lr=1)), dict(norm_decay_mult=0))


@pytest.mark.parametrize('kind, bias', [('v8 + FINE', 0.1), ('v10', 0.1), ('v12', 0.0), ('CSF-Net', 0.0)])
def test_the_warm_up(kind, bias):
    """Weights from zero, biases from a rate of their own, momentum from 0.8, over three epochs."""
    cfg = Config.fromfile(config_root() / FILES[kind])
    with DefaultScope.overwrite_default_scope('mmyolo'):
        hook = HOOKS.build(cfg.default_hooks.param_scheduler)
        wrapper = build_optim_wrapper(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), cfg.optim_wrapper)
    groups, rate = wrapper.optimizer.param_groups, cfg.optim_wrapper.optimizer.lr
    runner = SimpleNamespace(optim_wrapper=wrapper, iter=0, epoch=0, train_dataloader=range(1000))
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    assert [group['lr'] for group in groups] == [0, 0, bias]
    sgd = kind != 'CSF-Net'
    assert [group.get('momentum') for group in groups] == [0.8 if sgd else None] * 3
    runner.iter = 1500
    hook.before_train_iter(runner, 0)
    assert [group['lr'] for group in groups] == pytest.approx([rate / 2, rate / 2, (bias + rate) / 2])
    runner.iter = 3000
    hook.before_train_iter(runner, 0)
    assert [group['lr'] for group in groups] == pytest.approx([rate] * 3)
    assert [group.get('momentum') for group in groups] == [pytest.approx(0.937) if sgd else None] * 3
    runner.iter, runner.epoch = 3001, cfg.train_cfg.max_epochs
    hook.before_train_iter(runner, 0)
    hook.after_train_epoch(runner)
    assert [group['lr'] for group in groups] == pytest.approx([0.01 * rate] * 3)

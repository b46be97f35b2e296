"""A small HMPE by the real engine, in RT-DETR's recipe: processes, precision, resume, empty and padded images."""

import os
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmdet.datasets import VOCDataset as MMDetVOCDataset
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope, init_default_scope
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmscale.datasets import VOCDataset
from mmscale.engine.checkpoint import load_checkpoint
from mmscale.engine.train import build_parser, prepare, train
from mmscale.hmpe import HeatmapHead, heatmap_head, snake_conv
from mmscale.paths import config_root

from ..rtdetr.small import not_finite, without_gradient
from ..trainings import equal, half_empty_images, kill_at, own_process_state, same_end, train_in_two_processes
from . import small

CONFIG = """
_base_ = ['mmscale::_base_/models/hmpe_hgnetv2-b2.py', 'mmscale::_base_/datasets/small_objects.py',
          'mmscale::_base_/schedules/schedule_rtdetr_72e.py', 'mmscale::_base_/default_runtime.py']
model = dict(_delete_=True, **{model!r})
model['bbox_head']['num_classes'] = 4
model['data_preprocessor']['batch_augments'] = [dict(type='mmscale.BatchResizeChoice', sizes=[64, 96])]
pipeline = _base_.rtdetr_train_pipeline
for step in pipeline:
    if step['type'] == 'mmdet.Resize':
        step['scale'] = (96, 96)
del step
train_dataloader = dict(
    batch_size=2, num_workers=0, batch_sampler=None,
    dataset=dict(pipeline=pipeline, filter_cfg=dict(filter_empty_gt=False), data_root={data!r}))
val_cfg = val_dataloader = val_evaluator = test_cfg = test_dataloader = test_evaluator = None
train_cfg = dict(max_epochs=3)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3)]
optim_wrapper = dict(
    optimizer=dict(lr=0.001), paramwise_cfg=dict(custom_keys={{'backbone': dict(lr_mult=1.0)}}))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1, save_best=None), logger=dict(interval=1))
randomness = dict(seed=3)
custom_hooks = [*_base_.custom_hooks, _base_.rtdetr_ema]
{extra}
"""
GRADIENT = dict(channels=16, heatmap='gradient')
DN = dict(group_cfg=dict(dynamic=True, num_dn_queries=10))
KINDS = {  # every choice that decides which parameters there are, or where their gradients come from
    'hmpe': {},
    'hmpe, by gradients': dict(heatmap_head=GRADIENT),
    'mohfe': dict(conv=None, hidq=False),
    'mohfe, by gradients': dict(conv=None, hidq=False, heatmap_head=GRADIENT),
    'hidq': dict(conv=None, mohfe=False),
    'hidq, by gradients': dict(conv=None, mohfe=False, heatmap_head=GRADIENT),
    'lsconv': dict(mohfe=False, hidq=False),
    'dsconv': dict(conv='DSConv', mohfe=False, hidq=False),
    'no layer': dict(decoder__num_layers=0, dn_cfg=None),
}
HEAT_LOSSES = {'loss_heatmap', 'loss_heat_cls', 'loss_heat_bbox'}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Six images, every second one without its object."""
    return half_empty_images(tmp_path_factory.mktemp('small') / 'data')


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


@contextmanager
def scope():
    with DefaultScope.overwrite_default_scope('mmscale'):
        yield


def model_config(kind='hmpe', **changes):
    return small.config(**{'num_queries': 20, 'dn_cfg': DN, **KINDS[kind], **changes})


def detector(kind='hmpe', stir=True, **changes):
    """One of :data:`KINDS` in training mode, by default with snakes that bend."""
    with scope():
        model = small.detector(**{'num_queries': 20, 'dn_cfg': DN, **KINDS[kind], **changes})
    return (small.stirred(model) if stir else model).train()


def total(losses):
    return sum(losses.values())


def losses_of(model, counts, seed=0):
    """With the same denoising queries every time."""
    torch.manual_seed(seed)
    return model.loss(small.images(len(counts)), small.samples(counts))


@pytest.fixture
def run(data, tmp_path):
    """Train: ``run('name', *options, kind='hmpe', extra='...')``; gives the runner, files are in tmp_path / name."""

    def run(name, *options, kind='hmpe', extra=''):
        file = tmp_path / f'{name}.py'
        file.write_text(CONFIG.format(data=str(data), model=model_config(kind), extra=extra))
        return train(prepare(build_parser().parse_args([str(file), '--work-dir', str(tmp_path / name), *options])))

    return run


# Any batch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('counts', [(3, 1), (0, 2), (0, 0)])
@pytest.mark.parametrize('kind', KINDS)
def test_every_parameter_takes_part_in_any_batch(kind, counts):
    """Also where no image has an object, which DistributedDataParallel would not forgive."""
    model = detector(kind)
    losses = losses_of(model, counts)
    has_heat = model.heatmap_head is not None
    assert {name for name in losses if 'heat' in name} == (HEAT_LOSSES if has_heat else set())
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert not has_heat or (losses['loss_heat_bbox'] > 0) == any(counts)
    total(losses).backward()
    assert without_gradient(model) == [] and not_finite(model) == []
    if any(counts):
        parts = ('neck.snakes.', 'neck.mohfe.', 'heatmap_head.', 'memory_proj.')
        silent = {name for name, value in model.named_parameters() if name.startswith(parts) and not value.grad.any()}
        assert silent <= {'neck.mohfe.self_attn.in_proj_bias'}, 'steps, fusion, gate and both branches learn'


def test_a_gate_is_there_where_something_can_teach_it():
    for kind, options in KINDS.items():
        heat = detector(kind, stir=False).heatmap_head
        assert heat is None or (heat.gate is not None) == options.get('hidq', True)


@pytest.mark.parametrize('kind', ['hmpe', 'hmpe, by gradients'])
def test_the_detectors_losses_do_not_pull_at_the_maps_through_a_choice(kind):
    """H_mixed reaches the queries with its gradient; with maps by gradients there is none for the predictor."""
    model = detector(kind)
    losses = losses_of(model, (3, 1))
    total({name: loss for name, loss in losses.items() if name not in HEAT_LOSSES}).backward()
    found = {name: value.grad for name, value in model.heatmap_head.named_parameters() if value.grad is not None}
    assert any(name.startswith('gate') and gradient.any() for name, gradient in found.items())
    assert any(name.startswith('predictor') for name in found) == (kind == 'hmpe')
    assert not any('branch' in name for name in found), 'the branches learn from labels and boxes alone'


def test_supervision_leaves_the_graph_of_the_losses_alone():
    """The backward passes within the forward pass add to no parameter's gradient, and the loss's own goes through."""
    model = detector()
    losses = losses_of(model, (3, 1))
    assert all(value.grad is None for value in model.parameters())
    total(losses).backward()
    assert model.heatmap_head.class_branch[0].weight.grad.any()


def test_frozen_parts_below_the_heatmaps():
    """Only the head trains: the maps need no gradient, the backward passes within still have one."""
    model = detector()
    for name, value in model.named_parameters():
        value.requires_grad = name.startswith(('bbox_head', 'heatmap_head.class_branch', 'heatmap_head.predictor'))
    total(losses_of(model, (3, 1))).backward()
    assert without_gradient(model) == [] and not_finite(model) == []


# The engine -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['hmpe', 'hmpe, by gradients'])
def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(kind, run, tmp_path):
    whole = run('whole', kind=kind)
    assert whole.model.heatmap_head.heatmap == ('gradient' if 'gradients' in kind else 'predicted')
    seen = set(whole.message_hub.log_scalars)
    assert {f'train/{name}' for name in HEAT_LOSSES} <= seen

    kill_at(7)  # within the third epoch of three steps
    with pytest.raises(KeyboardInterrupt):
        run('killed', kind=kind, extra="custom_hooks.append(dict(type='Kill'))")
    assert not (tmp_path / 'killed' / 'epoch_3.pth').exists()
    run('killed', '--resume', kind=kind)
    whole, resumed = (load_checkpoint(tmp_path / name / 'epoch_3.pth') for name in ('whole', 'killed'))
    same_end(whole, resumed)
    assert equal(whole['ema_state_dict'], resumed['ema_state_dict'])
    assert whole['meta']['iter'] == 9 and any('heatmap_head' in name for name in whole['state_dict'])


def test_two_processes_one_of_which_never_sees_an_object(data, tmp_path, repo):
    config = CONFIG.format(data=str(data), model=model_config(), extra='')
    train_in_two_processes(config, 'custom_hooks.append({})', tmp_path, repo)


# The processes' gradients ---------------------------------------------------------------------------------------------

BATCHES = [(2, 1, 3, 1), (3, 0, 0, 0)]  # objects of four images, two of them per process


def settled(kind):
    """Without anything that a process draws for itself or measures in its own images: noise, batch statistics."""
    model = detector(kind, dn_cfg=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def gradients(model):
    return {name: value.grad.clone() for name, value in model.named_parameters()}


class Loss(nn.Module):
    """What DistributedDataParallel wraps: a call gives the loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs, samples):
        return total(self.model.loss(inputs, samples))


def in_a_process(rank, folder):
    """Every kind's averaged gradients, on two images of the four."""
    torch.set_num_threads(1)
    init_default_scope('mmscale')
    os.environ.update(GLOO_SOCKET_IFNAME='lo')
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    found = {}
    for kind in KINDS:
        model = settled(kind)
        parallel = DistributedDataParallel(Loss(model))
        for counts in BATCHES:
            model.zero_grad()
            own = slice(2 * rank, 2 * rank + 2)
            parallel(small.images(4)[own], small.samples(counts)[own]).backward()
            found[kind, counts] = gradients(model)
    torch.save(found, f'{folder}/gradients{rank}.pth')
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_the_whole_batch(tmp_path):
    """Of every kind, with objects in both processes or in one: averages are over the objects of both."""
    torch.multiprocessing.spawn(in_a_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f'gradients{rank}.pth') for rank in (0, 1))
    assert set(first) == set(second) == {(kind, counts) for kind in KINDS for counts in BATCHES}
    for (kind, counts), found in first.items():
        assert equal(found, second[kind, counts])
        model = settled(kind)
        total(model.loss(small.images(4), small.samples(counts))).backward()
        for name, expected in gradients(model).items():
            scale = expected.abs().max().item()
            torch.testing.assert_close(found[name], expected, atol=1e-3 * scale + 1e-7, rtol=1e-3, msg=f'{kind} {name}')


# Precision ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['hmpe', 'hmpe, by gradients'])
def test_mixed_precision(kind, run):
    runner = run('amp', '--amp', kind=kind, extra='train_cfg.update(max_epochs=1)')
    assert type(runner.optim_wrapper).__name__ == 'AmpOptimWrapper'
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())


@pytest.mark.parametrize('kind', ['hmpe', 'hmpe, by gradients', 'mohfe', 'hidq, by gradients'])
def test_losses_under_autocast_are_near_those_in_single_precision(kind, monkeypatch):
    """Heatmaps and their supervision are in single precision, its branches and backward passes included."""
    model = detector(kind, stir=False)
    expected = losses_of(model, (3, 1))
    kinds, kept, snakes = [], [], []
    original = heatmap_head.class_heatmap
    supervise, sampling = HeatmapHead.supervise, snake_conv.snake_by_sampling

    def spy(activations, gradient, scores, *args):
        kinds.extend(x.dtype for x in (activations, gradient, scores))
        kinds.append(torch.ones(1, 1).matmul(torch.ones(1, 1)).dtype)
        return original(activations, gradient, scores, *args)

    def keep(*args):
        kept.append(supervise(*args))
        return kept[-1]

    def bend(*args):
        out = sampling(*args)
        snakes.append(out.dtype)
        return out

    monkeypatch.setattr(heatmap_head, 'class_heatmap', spy)
    monkeypatch.setattr(HeatmapHead, 'supervise', keep)
    monkeypatch.setattr(snake_conv, 'snake_by_sampling', bend)
    with torch.autocast('cpu', torch.bfloat16):
        losses = losses_of(model, (3, 1))
    assert len(kinds) == 3 * 2 * 4 and set(kinds) == {torch.float32}
    assert snakes == [torch.float32] * (6 if 'hmpe' in kind else 0), 'places in half precision are whole cells off'
    (supervision,) = kept
    for name in ('logits', 'targets', 'scores', 'boxes', 'box_targets'):
        assert {x.dtype for x in getattr(supervision, name)} == {torch.float32}, name
    assert losses.keys() == expected.keys() and {loss.dtype for loss in losses.values()} == {torch.float32}
    assert total(losses).item() == pytest.approx(total(expected).item(), rel=0.1)
    for name in HEAT_LOSSES:
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=0.05), name
    total(losses).backward()
    assert without_gradient(model) == []
    assert all(value.grad.dtype == torch.float32 and value.grad.isfinite().all() for value in model.parameters())


# Padded, and real -----------------------------------------------------------------------------------------------------

SIZES = [(96, 128), (64, 80)]  # height and width of the images of a padded batch


def padded_batch():
    """Two images, the second smaller: zeros at its right and bottom."""
    inputs = small.images()
    inputs[1, :, SIZES[1][0] :], inputs[1, :, :, SIZES[1][1] :] = 0, 0
    samples = [small.samples([2], (96, 128), size, seed)[0] for seed, size in enumerate(SIZES)]
    return inputs, samples


@torch.no_grad()
def test_objects_heat_their_own_places_in_a_padded_batch():
    """The padding belongs to no object; a box covers the cells that it covers in pixels of the batch."""
    inputs, samples = padded_batch()
    samples[1].gt_instances.bboxes[0] = torch.tensor([8.0, 16, 40, 48])
    samples[1].gt_instances = samples[1].gt_instances[:1]
    supervision = detector().heat(inputs, samples)[1].supervision
    inside = [labels[1] >= 0 for labels in supervision.labels]
    assert inside[0].nonzero().aminmax(dim=0)[0].tolist() == [2, 1]
    assert inside[0].nonzero().aminmax(dim=0)[1].tolist() == [5, 4] and inside[0].sum() == 16
    assert [x.sum() for x in inside[1:]] == [2, 1], 'of the coarsest the cell of its centre'


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_a_batch_is_predicted_like_its_images_and_without_a_graph(kind):
    inputs, samples = padded_batch()
    model = detector(kind, test_cfg=dict(max_per_img=10)).eval()
    together = model.predict(inputs, [sample.clone() for sample in samples], rescale=False)
    with torch.inference_mode():
        again = model.predict(inputs, [sample.clone() for sample in samples], rescale=False)
    for i, (height, width) in enumerate(SIZES):
        found = together[i].pred_instances
        alone = model.predict(inputs[i : i + 1], [samples[i].clone()], rescale=False)[0].pred_instances
        torch.testing.assert_close(found.bboxes, alone.bboxes, atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-4, rtol=1e-4)
        assert torch.equal(again[i].pred_instances.bboxes, found.bboxes)
        assert len(found) == 10 and found.bboxes.min() >= 0
        assert found.bboxes[:, 0::2].max() <= width and found.bboxes[:, 1::2].max() <= height


RECIPE = Config.fromfile(config_root() / '_base_' / 'schedules' / 'schedule_rtdetr_72e.py').rtdetr_train_pipeline
BARE = [step for step in RECIPE if step['type'].endswith(('LoadImageFromFile', 'LoadAnnotations', 'Inputs', 'Resize'))]


def bccd_images(dataset_type, root, tmp_path, pipeline):
    """The two images that have a box of no area, at 128x96."""
    (tmp_path / 'two.txt').write_text('BloodImage_00338\nBloodImage_00343\n')
    pipeline = [dict(step, scale=(128, 96)) if step['type'] == 'mmdet.Resize' else dict(step) for step in pipeline]
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = dataset_type(
            data_root=str(root),
            ann_file=str(tmp_path / 'two.txt'),
            data_prefix=dict(sub_data_root=''),
            metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
            pipeline=pipeline,
        )
        return pseudo_collate([dataset[0], dataset[1]])


@pytest.mark.parametrize(
    'dataset_type, pipeline, flat', [(VOCDataset, RECIPE, False), (MMDetVOCDataset, BARE, True)], ids=['ours', 'theirs']
)
def test_boxes_of_no_area_do_no_harm(dataset_type, pipeline, flat, bccd_root, tmp_path):
    """BCCD's BloodImage_00338 and 00343 have one each: our data and the recipe drop them, the losses bear them."""
    model = detector(stir=False)
    for seed in range(1 if flat else 3):
        np.random.seed(seed)
        torch.manual_seed(seed)
        data = bccd_images(dataset_type, bccd_root, tmp_path, pipeline)
        batch = model.data_preprocessor(data, training=True)
        boxes = torch.cat([sample.gt_instances.bboxes for sample in batch['data_samples']])
        assert len(boxes) and ((boxes[:, 2:] - boxes[:, :2]).min() == 0) == flat
        with scope():
            losses = model.loss(batch['inputs'], batch['data_samples'])
        assert all(loss.isfinite() for loss in losses.values())
        model.zero_grad()
        total(losses).backward()
        assert without_gradient(model) == [] and not_finite(model) == []

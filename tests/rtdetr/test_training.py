"""RT-DETR's recipe by the real engine, on generated images of 96x96: what training promises wherever it runs."""

import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmscale.engine.checkpoint import load_checkpoint
from mmscale.engine.train import build_parser, prepare, train

from ..trainings import equal, half_empty_images, kill_at, own_process_state, same_end, train_in_two_processes
from . import small

CONFIG = """
_base_ = ['mmscale::_base_/models/rtdetr_r18_scratch.py', 'mmscale::_base_/datasets/small_objects.py',
          'mmscale::_base_/schedules/schedule_rtdetr_72e.py', 'mmscale::_base_/default_runtime.py']
model = dict(
    num_queries=20,
    data_preprocessor=dict(batch_augments=[dict(type='mmscale.BatchResizeChoice', sizes=[64, 96])]),
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[16, 32, 64], out_channels=32, aifi=dict(feedforward_channels=32)),
    decoder=dict(num_layers=2, embed_dims=32, feedforward_channels=32),
    bbox_head=dict(num_classes=4, embed_dims=32),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=10)))
pipeline = _base_.rtdetr_train_pipeline
test_pipeline = _base_.rtdetr_test_pipeline
for step in (*pipeline, *test_pipeline):
    if step['type'] == 'mmdet.Resize':
        step['scale'] = (96, 96)
del step
data = dict(data_root={data!r})
train_dataloader = dict(
    batch_size=2, num_workers=0, batch_sampler=None,
    dataset=dict(pipeline=pipeline, filter_cfg=dict(filter_empty_gt=False), **data))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline, **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={data!r} + '/annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=3)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3)]
optim_wrapper = dict(optimizer=dict(lr=0.001))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1), logger=dict(interval=1))
randomness = dict(seed=3)
custom_hooks = [*_base_.custom_hooks, _base_.rtdetr_ema]
{extra}
"""
NO_VAL = ['val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Six images for training, every second one without its object, and two for validation."""
    return half_empty_images(tmp_path_factory.mktemp('small') / 'data')


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


@pytest.fixture
def run(data, tmp_path):
    """Train: ``run('name', *options, cfg=[...], extra='...')``; gives the runner, its files lie in tmp_path / name."""

    def run(name, *options, cfg=NO_VAL, extra=''):
        file = tmp_path / f'{name}.py'
        file.write_text(CONFIG.format(data=str(data), extra=extra))
        argv = [str(file), '--work-dir', str(tmp_path / name), *options]
        return train(prepare(build_parser().parse_args(argv + (['--cfg-options', *cfg] if cfg else []))))

    return run


def test_validation_and_checkpoints_have_the_averaged_weights(run, tmp_path):
    seen, losses = [], {}

    @HOOKS.register_module()
    class Look(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            losses.update(outputs)

        def before_val_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 0:
                seen.append({key: value.clone() for key, value in runner.model.state_dict().items()})

    runner = run('run', cfg=['train_cfg.max_epochs=2'], extra="custom_hooks.append(dict(type='Look'))")
    parts = ('loss_cls', 'loss_bbox', 'loss_iou')
    where = ('', 'd0.', 'enc_', 'dn_', 'd0.dn_')  # two decoder layers, the proposals, the denoising queries
    assert set(losses) == {'loss', *(f'{place}{part}' for place in where for part in parts)}
    assert all(math.isfinite(value) for value in losses.values())
    for epoch, validated in enumerate(seen, 1):
        saved = load_checkpoint(tmp_path / 'run' / f'epoch_{epoch}.pth')
        assert equal(saved['state_dict'], validated)
        trained = {key[7:]: value for key, value in saved['ema_state_dict'].items() if key.startswith('module.')}
        assert trained.keys() == validated.keys()
        for key in ('decoder.layers.0.linear1.weight', 'backbone.stem.1.running_mean'):  # parameters and buffers
            assert not torch.equal(trained[key], validated[key])
    assert len(seen) == 2
    assert equal(runner.model.state_dict(), trained), 'training goes on with its own weights'


def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(run, tmp_path):
    run('whole')

    kill_at(7)  # within the third epoch of three steps
    with pytest.raises(KeyboardInterrupt):
        run('killed', extra="custom_hooks.append(dict(type='Kill'))")
    assert not (tmp_path / 'killed' / 'epoch_3.pth').exists()
    run('killed', '--resume')
    whole, resumed = (load_checkpoint(tmp_path / name / 'epoch_3.pth') for name in ('whole', 'killed'))
    same_end(whole, resumed)
    assert equal(whole['ema_state_dict'], resumed['ema_state_dict'])
    assert whole['ema_state_dict']['steps'] == 9
    assert len(whole['optimizer']['param_groups']) == 4


def test_learning_rates_follow_the_batch_size(run):
    runner = run('scaled', '--auto-scale-lr', cfg=[*NO_VAL, 'train_cfg.max_epochs=1'])
    rates = sorted({group['initial_lr'] for group in runner.optim_wrapper.optimizer.param_groups})
    assert rates == pytest.approx([0.0001 * 2 / 16, 0.001 * 2 / 16])  # the backbone's and the rest's


def test_mixed_precision(run):
    runner = run('amp', '--amp', cfg=[*NO_VAL, 'train_cfg.max_epochs=1'])
    assert type(runner.optim_wrapper).__name__ == 'AmpOptimWrapper'
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())


def test_two_processes_one_of_which_never_sees_an_object(data, tmp_path, repo):
    config = CONFIG.format(data=str(data), extra='')
    printed = train_in_two_processes(config, 'custom_hooks.append({})', tmp_path, repo)
    assert 'SyncBatchNorm needs GPUs' in printed


def test_losses_are_in_single_precision_under_autocast():
    model, batch = small.detector(), (small.images(), small.samples([3, 1]))
    torch.manual_seed(0)
    expected = model.loss(*batch)
    torch.manual_seed(0)  # the same noise
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(*batch)
        logits, _ = model.eval()._forward(batch[0])
    assert logits.dtype == torch.bfloat16
    assert losses.keys() == expected.keys()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert sum(losses.values()).item() == pytest.approx(sum(expected.values()).item(), rel=0.1)
    sum(losses.values()).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_trains_without_denoising():
    model = small.detector(dn_cfg=None)
    losses = model.loss(small.images(), small.samples([2, 0]))
    assert not [name for name in losses if 'dn' in name] and 'd1.loss_iou' in losses
    sum(losses.values()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not [name for name in model.state_dict() if 'dn_query' in name]


def test_any_number_of_the_trained_layers_serves_at_inference():
    model = small.stirred(small.detector()).eval()
    image = small.images()
    with torch.no_grad():
        whole = model._head_inputs(image, None)
        seen = []
        for layers in range(1, model.decoder.num_layers + 1):
            model.decoder.num_eval_layers = layers
            logits, boxes = model._forward(image)
            assert logits.shape == (1, 2, 30, small.CLASSES) and boxes.shape == (1, 2, 30, 4)
            assert torch.equal(logits[0], model.bbox_head.cls_branches[layers - 1](whole['hidden_states'][layers - 1]))
            assert torch.equal(boxes[0], whole['boxes'][layers - 1])
            seen.append(boxes)
            results = model.predict(image, small.samples([0, 0]))
            assert [len(result.pred_instances) for result in results] == [30, 30]
    assert len(seen) == 3 and not torch.allclose(seen[0], seen[2])
    short = small.detector(decoder__num_eval_layers=1)
    short.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(short.eval()._forward(image)[1], seen[0])

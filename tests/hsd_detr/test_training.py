"""A small HSD-DETR by the real engine, in RT-DETR's recipe: processes, precision, resume, empty and padded images."""

import numpy as np
import pytest
import torch
from mmdet.datasets import VOCDataset as MMDetVOCDataset
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope

from mmscale.datasets import VOCDataset
from mmscale.engine.checkpoint import load_checkpoint
from mmscale.engine.train import build_parser, prepare, train
from mmscale.layers.image_sizes import row_image_sizes
from mmscale.paths import config_root

from ..trainings import equal, half_empty_images, kill_at, own_process_state, same_end, train_in_two_processes
from . import small

CONFIG = """
_base_ = ['mmscale::_base_/models/hsd-detr_s.py', 'mmscale::_base_/datasets/small_objects.py',
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


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Six images, every second one without its object."""
    return half_empty_images(tmp_path_factory.mktemp('small') / 'data')


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


@pytest.fixture
def run(data, tmp_path):
    """Train: ``run('name', *options, extra='...')``; gives the runner, its files lie in tmp_path / name."""

    def run(name, *options, extra=''):
        file = tmp_path / f'{name}.py'
        file.write_text(CONFIG.format(data=str(data), model=small.MODEL, extra=extra))
        return train(prepare(build_parser().parse_args([str(file), '--work-dir', str(tmp_path / name), *options])))

    return run


def loss_of(model, counts, **options):
    """With the same denoising queries and the same paths dropped every time."""
    torch.manual_seed(0)
    return small.total(model.loss(*small.batch(counts, **options)))


@pytest.mark.parametrize('counts', [(3, 1), (0, 2), (0, 0)])
def test_every_parameter_takes_part_in_any_batch(counts):
    """Also where no image has an object, which DistributedDataParallel would not forgive."""
    model = small.training_model()
    loss = loss_of(model, counts)
    loss.backward()
    assert loss.isfinite() and loss > 0
    assert small.without_gradient(model) == [] and small.not_finite(model) == []
    if any(counts):
        parts = ('backbone.', 'neck.aifi.')
        silent = [name for name, value in model.named_parameters() if name.startswith(parts) and not value.grad.any()]
        assert silent == [], 'scans, masks and gate included'


def test_a_literal_gate_takes_part_too_and_learns_nothing():
    """As the paper has it: a gradient of zero. With none at all two processes would not train."""
    model = small.training_model()
    model.neck.aifi.agsa.learns = False
    loss_of(model, (2, 1)).backward()
    assert small.without_gradient(model) == []
    silent = {name for name, value in model.neck.aifi.named_parameters() if not value.grad.any()}
    assert silent == {f'agsa.gate.{layer}.{kind}' for layer in (0, 2) for kind in ('weight', 'bias')}


def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(run, tmp_path):
    """Although paths are dropped at random."""
    extra = "model['backbone']['drop_path_rate'] = 0.4\n"
    runner = run('whole', extra=extra)
    rates = [stage[1].drop_path.drop_prob for stage in runner.model.backbone.stages]
    assert rates == pytest.approx([0.0, 0.4 / 3, 0.8 / 3, 0.4])

    kill_at(7)  # within the third epoch of three steps
    with pytest.raises(KeyboardInterrupt):
        run('killed', extra=extra + "custom_hooks.append(dict(type='Kill'))")
    assert not (tmp_path / 'killed' / 'epoch_3.pth').exists()
    run('killed', '--resume', extra=extra)
    whole, resumed = (load_checkpoint(tmp_path / name / 'epoch_3.pth') for name in ('whole', 'killed'))
    same_end(whole, resumed)
    assert equal(whole['ema_state_dict'], resumed['ema_state_dict'])
    assert whole['meta']['iter'] == 9 and any('ss2d' in name for name in whole['state_dict'])


def test_a_path_is_dropped_in_training_alone():
    model = small.training_model(drop_path_rate=0.9)
    image = small.images(4)
    torch.manual_seed(0)
    assert not torch.equal(model.backbone(image)[-1], model.backbone(image)[-1])
    model.eval()
    assert torch.equal(model.backbone(image)[-1], model.backbone(image)[-1])


def test_mixed_precision(run):
    runner = run('amp', '--amp', extra='train_cfg.update(max_epochs=1)')
    assert type(runner.optim_wrapper).__name__ == 'AmpOptimWrapper'
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())


def test_losses_under_autocast_are_near_those_in_single_precision():
    model = small.training_model()
    expected = loss_of(model, (3, 1))
    seen = []
    handles = [
        module.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        for module in (model.backbone.stages[0][1].fusion.ss2d.out_proj, model.neck.aifi.agsa.proj)
    ]
    with torch.autocast('cpu', torch.bfloat16):
        loss = loss_of(model, (3, 1))
    for handle in handles:
        handle.remove()
    loss.backward()
    assert seen == [torch.bfloat16] * 2, 'convolutions in half precision'
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=0.05)
    gradients = [value.grad for value in model.parameters()]
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


def test_two_processes_one_of_which_never_sees_an_object(data, tmp_path, repo):
    config = CONFIG.format(data=str(data), model=small.MODEL, extra='')
    train_in_two_processes(config, 'custom_hooks.append({})', tmp_path, repo)


SIZES = [(96, 128), (64, 80)]  # height and width of the images of a padded batch


def padded_batch():
    """Two images, the second smaller: zeros at its right and bottom."""
    inputs = small.images(2)
    inputs[1, :, SIZES[1][0] :], inputs[1, :, :, SIZES[1][1] :] = 0, 0
    samples = [small.samples([2], (96, 128), size, seed, 3)[0] for seed, size in enumerate(SIZES)]
    return inputs, samples


def test_padded_batch_in_training():
    """Box losses count in the input's sides, which RT-DETR's boxes are relative to."""
    model = small.training_model()
    rows = []
    box_loss = model.bbox_head.loss_iou
    handle = box_loss.register_forward_pre_hook(lambda module, args: rows.append(row_image_sizes(len(args[0]), 'cpu')))
    loss = small.total(model.loss(*padded_batch()))
    handle.remove()
    loss.backward()
    assert loss.isfinite() and small.not_finite(model) == []
    assert len(rows) == 5, 'two layers, the proposals, and two layers of denoising queries'
    assert all(sizes.unique(dim=0).tolist() == [[128, 96]] for sizes in rows)


@torch.no_grad()
def test_padded_batch_in_prediction():
    """Each image has the boxes that it has alone, inside its own size."""
    model = small.spread_model(small.whole_config())
    inputs, samples = padded_batch()
    together = model.predict(inputs, [sample.clone() for sample in samples], rescale=False)
    for i, (height, width) in enumerate(SIZES):
        found = together[i].pred_instances
        alone = model.predict(inputs[i : i + 1], [samples[i].clone()], rescale=False)[0].pred_instances
        torch.testing.assert_close(found.bboxes, alone.bboxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-4, rtol=1e-4)
        assert len(found) == 20 and found.bboxes.min() >= 0
        assert found.bboxes[:, 0::2].max() <= width and found.bboxes[:, 1::2].max() <= height
    assert len(set(small.shares(model, inputs))) == 2, 'each image keeps as many keys as it needs'


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
            metainfo=dict(classes=small.CLASSES),
            pipeline=pipeline,
        )
        return pseudo_collate([dataset[0], dataset[1]])


@pytest.mark.parametrize(
    'dataset_type, pipeline, flat', [(VOCDataset, RECIPE, False), (MMDetVOCDataset, BARE, True)], ids=['ours', 'theirs']
)
def test_boxes_of_no_area_do_no_harm(dataset_type, pipeline, flat, bccd_root, tmp_path):
    """BCCD's BloodImage_00338 and 00343 have one each: our data and RT-DETR's recipe drop them, the loss bears them."""
    model = small.training_model()
    for seed in range(3):
        np.random.seed(seed)
        torch.manual_seed(seed)
        data = bccd_images(dataset_type, bccd_root, tmp_path, pipeline)
        batch = model.data_preprocessor(data, training=True)
        boxes = torch.cat([sample.gt_instances.bboxes for sample in batch['data_samples']])
        assert len(boxes) and ((boxes[:, 2:] - boxes[:, :2]).min() == 0) == flat
        losses = model.loss(batch['inputs'], batch['data_samples'])
        assert all(value.isfinite() for value in losses.values())
        model.zero_grad()
        small.total(losses).backward()
        assert small.not_finite(model) == []
        if flat:
            break  # nothing is random

"""A small SSD with CFSAM by the real engine, in SSD's own recipe: processes, precision, resume, real boxes."""

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
from mmscale.paths import config_root

from ..trainings import half_empty_images, kill_at, own_process_state, same_end, train_in_two_processes
from . import small

CONFIG = """
_base_ = ['mmscale::_base_/models/ssd300.py', 'mmscale::_base_/datasets/small_objects.py',
          'mmscale::_base_/schedules/schedule_ssd_260e.py', 'mmscale::_base_/default_runtime.py']
model = dict(_delete_=True, **{model!r})
model['bbox_head']['num_classes'] = 4
pipeline = _base_.ssd_train_pipeline
for step in pipeline:
    if step['type'] == 'mmdet.Resize':
        step['scale'] = (96, 96)
del step
train_dataloader = dict(
    batch_size=2, num_workers=0, batch_sampler=None,
    dataset=dict(pipeline=pipeline, filter_cfg=dict(filter_empty_gt=False), data_root={data!r}))
val_cfg = val_dataloader = val_evaluator = test_cfg = test_dataloader = test_evaluator = None
train_cfg = dict(max_epochs=3)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1, save_best=None), logger=dict(interval=1))
randomness = dict(seed=3)
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


def total(losses):
    return sum(value.sum() for entry in losses.values() for value in (entry if isinstance(entry, list) else [entry]))


@pytest.mark.parametrize('num_parts', [2, 3])
@pytest.mark.parametrize('counts', [(3, 1), (0, 2), (0, 0)])
def test_every_parameter_takes_part_in_any_batch(counts, num_parts):
    """Also where no image has an object, which DistributedDataParallel would not forgive."""
    model = small.training_model(num_parts=num_parts)
    loss = total(model.loss(*small.batch(counts)))
    loss.backward()
    assert loss.isfinite() and (loss > 0) == any(counts)
    parameters = [(name, value.grad) for name, value in model.named_parameters() if value.requires_grad]
    assert [name for name, gradient in parameters if gradient is None] == []
    assert all(gradient.isfinite().all() for _, gradient in parameters)
    if any(counts):  # then every level's tokens, whichever level the objects are on
        module = [(name, gradient) for name, gradient in parameters if name.startswith('neck.1.')]
        assert [name for name, gradient in module if '.recover.' not in name and not gradient.any()] == []


def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(run, tmp_path):
    run('whole')

    kill_at(7)  # within the third epoch of three steps
    with pytest.raises(KeyboardInterrupt):
        run('killed', extra="custom_hooks = [*_base_.custom_hooks, dict(type='Kill')]")
    assert not (tmp_path / 'killed' / 'epoch_3.pth').exists()
    run('killed', '--resume')
    whole, resumed = (load_checkpoint(tmp_path / name / 'epoch_3.pth') for name in ('whole', 'killed'))
    same_end(whole, resumed)
    start = small.training_model().state_dict()
    assert any('neck.1.gfe' in name for name in start), 'CFSAM is there'
    assert whole['meta']['iter'] == 9


def test_mixed_precision(run):
    runner = run('amp', '--amp', extra='train_cfg.update(max_epochs=1)')
    assert type(runner.optim_wrapper).__name__ == 'AmpOptimWrapper'
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())


def test_losses_under_autocast_are_near_those_in_single_precision():
    model, batch = small.training_model(), small.batch((3, 1))
    expected = total(model.loss(*batch))
    seen = []
    handle = model.neck[1].gfe.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        loss = total(model.loss(*batch))
    handle.remove()
    loss.backward()
    assert seen == [torch.bfloat16], 'attention in half precision'
    assert loss.item() == pytest.approx(expected.item(), rel=0.1)
    gradients = [value.grad for value in model.parameters() if value.requires_grad]
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


def test_two_processes_one_of_which_never_sees_an_object(data, tmp_path, repo):
    config = CONFIG.format(data=str(data), model=small.MODEL, extra='')
    train_in_two_processes(config, 'custom_hooks = [*_base_.custom_hooks, {}]', tmp_path, repo)


def bccd_images(dataset_type, root, tmp_path):
    """The two images that have a box of no area, through SSD's augmentation to 96x96."""
    pipeline = Config.fromfile(config_root() / '_base_' / 'models' / 'ssd300.py').ssd_train_pipeline
    for step in pipeline:
        if step['type'] == 'mmdet.Resize':
            step['scale'] = (96, 96)
    (tmp_path / 'two.txt').write_text('BloodImage_00338\nBloodImage_00343\n')
    with DefaultScope.overwrite_default_scope('mmdet'):
        return dataset_type(
            data_root=str(root),
            ann_file=str(tmp_path / 'two.txt'),
            data_prefix=dict(sub_data_root=''),
            metainfo=dict(classes=small.CLASSES),
            pipeline=pipeline,
        )


def losses_of(images, model, seeds):
    found = []
    with torch.no_grad():
        for seed in seeds:
            np.random.seed(seed)
            batch = model.data_preprocessor(pseudo_collate([images[0], images[1]]), training=True)
            boxes = torch.cat([sample.gt_instances.bboxes for sample in batch['data_samples']])
            assert len(boxes)
            found.append(
                (total(model.loss(batch['inputs'], batch['data_samples'])), (boxes[:, 2:] - boxes[:, :2]).min())
            )
    losses, sides = zip(*found, strict=True)
    return torch.stack(losses), torch.stack(sides)


def test_boxes_of_no_area_do_no_harm(bccd_root, tmp_path):
    """BCCD's BloodImage_00338 and 00343 have one each. Read by MMDetection, they make a logarithm of 0."""
    model = small.training_model()
    losses, sides = losses_of(bccd_images(VOCDataset, bccd_root, tmp_path), model, range(8))
    assert losses.isfinite().all() and (sides > 0).all()
    losses, sides = losses_of(bccd_images(MMDetVOCDataset, bccd_root, tmp_path), model, range(8))
    assert (sides == 0).any() and not losses.isfinite().all(), 'the danger is real'

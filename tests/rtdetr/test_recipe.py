"""The recipe's parts: learning rates and decays, the average of the weights, the batch's sizes, the crop."""

import math
import random
from copy import deepcopy

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.models.layers import ExpMomentumEMA
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from mmscale.engine.optim import AdditiveOptimWrapperConstructor
from mmscale.hsd_detr import SS2D
from mmscale.layers import RMSNorm2d
from mmscale.rtdetr.batch_augment import BatchResizeChoice
from mmscale.rtdetr.random_crop import RandomIoUCrop


def groups_of(model, **paramwise):
    """Learning rate and decay of every parameter by name, at a base of 1 and 1."""
    optimizer = dict(optimizer=dict(type='AdamW', lr=1.0, weight_decay=1.0))
    wrapper = AdditiveOptimWrapperConstructor(optimizer, paramwise)(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    assert sum(len(group['params']) for group in groups) == len({id(p) for g in groups for p in g['params']})
    return {names[id(p)]: (group['lr'], group['weight_decay']) for group in groups for p in group['params']}


class TestConstructor:
    @pytest.fixture
    def model(self):
        return nn.ModuleDict(
            dict(
                backbone=nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)),
                attention=nn.MultiheadAttention(4, 2),
                norm=nn.LayerNorm(4),
            )
        )

    def test_what_a_module_names_never_decays_unless_a_key_says_so(self):
        model = nn.ModuleDict(dict(scan=SS2D(16), norm=RMSNorm2d(4)))
        found = groups_of(model, norm_decay_mult=0.0, bias_decay_mult=0.0)
        decays = {name for name, (_, decay) in found.items() if decay}
        assert decays == {f'scan.{name}.weight' for name in ('in_proj', 'local.conv', 'select', 'out_proj')}
        found = groups_of(model, custom_keys=dict(skip=dict(decay_mult=0.5)))
        assert found['scan.skip'] == (1, 0.5) and found['scan.log_rate'] == (1, 0) and found['norm.weight'] == (1, 1)

    def test_a_lower_rate_for_the_backbone_leaves_its_norms_and_biases_without_decay(self, model):
        rules = dict(norm_decay_mult=0.0, bias_decay_mult=0.5, custom_keys=dict(backbone=dict(lr_mult=0.1)))
        assert groups_of(model, **rules) == {
            'backbone.0.weight': (0.1, 1.0),
            'backbone.0.bias': (0.1, 0.5),
            'backbone.1.weight': (0.1, 0.0),
            'backbone.1.bias': (0.1, 0.0),
            'backbone.2.weight': (0.1, 0.0),
            'backbone.2.bias': (0.1, 0.0),
            'attention.in_proj_weight': (1.0, 1.0),
            'attention.in_proj_bias': (1.0, 0.5),
            'attention.out_proj.weight': (1.0, 1.0),
            'attention.out_proj.bias': (1.0, 0.5),
            'norm.weight': (1.0, 0.0),
            'norm.bias': (1.0, 0.0),
        }

    def test_the_longest_key_counts_and_its_decay_stands_over_the_kind(self, model):
        keys = {'backbone': dict(lr_mult=0.1), 'backbone.1': dict(decay_mult=0.3)}
        found = groups_of(model, norm_decay_mult=0.0, custom_keys=keys)
        assert found['backbone.1.weight'] == (1.0, 0.3)
        assert found['backbone.2.weight'] == (0.1, 0.0)

    def test_synchronised_batch_norm_is_a_norm_and_frozen_parameters_are_left_out(self, model):
        model['backbone'][0].requires_grad_(False)
        found = groups_of(convert_sync_batchnorm(model, 'torch'), norm_decay_mult=0.0)
        assert found['backbone.1.weight'] == (1.0, 0.0)
        assert 'backbone.0.weight' not in found

    def test_a_shared_parameter_is_updated_once(self):
        first, second = nn.Linear(2, 2), nn.Linear(2, 2)
        second.weight = first.weight
        found = groups_of(nn.ModuleList([first, second]), bias_decay_mult=0.0)
        assert sorted(found) == ['0.bias', '0.weight', '1.bias']

    def test_equal_settings_share_a_group(self, model):
        optimizer = dict(optimizer=dict(type='AdamW', lr=1.0, weight_decay=1.0))
        wrapper = AdditiveOptimWrapperConstructor(optimizer, dict(norm_decay_mult=0.0))(model)
        assert len(wrapper.optimizer.param_groups) == 2

    @pytest.mark.parametrize(
        'paramwise, words',
        [
            (dict(norm_decay=0), "no option 'norm_decay'; its options are custom_keys, norm_decay_mult"),
            (dict(custom_keys=dict(bakcbone=dict(lr_mult=0.1))), "'bakcbone', which is in the name of no parameter"),
        ],
    )
    def test_mistakes(self, model, paramwise, words):
        with pytest.raises(ValueError, match=words):
            groups_of(model, **paramwise)

    def test_a_multiplier_needs_a_rate(self):
        with pytest.raises(ValueError, match="no 'lr' to multiply"):
            AdditiveOptimWrapperConstructor(
                dict(optimizer=dict(type='AdamW')), dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))
            )


@pytest.mark.parametrize(
    'name, backbone_lr, trained_norms', [('r18', 1e-5, True), ('r50', 1e-5, False), ('hgnetv2-l', 5e-6, False)]
)
def test_rate_and_decay_of_every_parameter(repo, name, backbone_lr, trained_norms):
    """In these models, one-dimensional parameters are norms and biases, and nothing else is."""
    cfg = Config.fromfile(repo / 'configs' / 'rtdetr' / f'rtdetr_{name}_8xb2-72e_coco.py')
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = wrapper.optimizer.param_groups
    assert len(groups) == 4 - (not trained_norms)
    found = {id(p): (group['lr'], group['weight_decay']) for group in groups for p in group['params']}
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert key.startswith('backbone.') and not trained_norms
            assert id(parameter) not in found
            continue
        rate, decay = found.pop(id(parameter))
        assert rate == pytest.approx(backbone_lr if key.startswith('backbone.') else 1e-4), key
        assert decay == (1e-4 if parameter.ndim > 1 else 0), key
    assert not found
    assert wrapper.clip_grad_kwargs == dict(max_norm=0.1, norm_type=2)


def test_average_of_the_weights_follows_the_official_ramp(repo):
    """decay(t) = 0.9999 (1 - exp(-t / 2000)) at update t; ours copies at the first, where that decay is 0.0005."""
    cfg = Config.fromfile(repo / 'configs' / 'rtdetr' / 'rtdetr_r18_8xb2-72e_coco.py')
    hook = next(hook for hook in cfg.custom_hooks if hook['type'] == 'EMAHook')
    assert hook['ema_type'] == 'mmdet.ExpMomentumEMA'
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)).double()
    average = ExpMomentumEMA(model, **{key: hook[key] for key in ('momentum', 'gamma', 'update_buffers')})
    expected = {}
    for step in range(1, 8):
        if step == 5:
            average.steps.fill_(99_999)
        update = int(average.steps) + 1
        with torch.no_grad():
            model[0].weight.fill_(float(step**2))
            model[1].running_mean.fill_(float(step**3))
            model[1].num_batches_tracked.fill_(step)
        average.update_parameters(model)
        decay = 0.9999 * (1 - math.exp(-update / 2000)) if update > 1 else 0
        for key, value in (('weight', step**2), ('mean', step**3)):
            expected[key] = decay * expected.get(key, 0) + (1 - decay) * value
        assert average.module[0].weight.item() == pytest.approx(expected['weight'], rel=1e-9)
        assert average.module[1].running_mean.item() == pytest.approx(expected['mean'], rel=1e-9)
    assert average.module[1].num_batches_tracked.dtype == torch.long  # a counter: copied at first, then left alone


def test_rate_is_constant_after_the_warm_up(repo):
    cfg = Config.fromfile(repo / 'configs' / 'rtdetr' / 'rtdetr_r18_8xb2-72e_coco.py')
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-4)
    scheduler = PARAM_SCHEDULERS.build({**cfg.param_scheduler[0], 'optimizer': optimizer})
    rates = []
    for _ in range(2500):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    assert len(cfg.param_scheduler) == 1
    assert rates[0] == pytest.approx(1e-7)
    assert rates == sorted(rates)
    assert rates[2000:] == pytest.approx([1e-4] * 500)


class TestBatchResizeChoice:
    @staticmethod
    def sample():
        out = DetDataSample(
            metainfo=dict(img_shape=(30, 40), pad_shape=(32, 64), batch_input_shape=(32, 64), ori_shape=(60, 80))
        )
        out.gt_instances = InstanceData(bboxes=torch.tensor([[4.0, 8.0, 20.0, 30.0]]), labels=torch.tensor([0]))
        out.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0))
        return out

    def test_images_boxes_and_sizes_go_together(self):
        images = torch.arange(2 * 3 * 32 * 64.0).view(2, 3, 32, 64)
        resized, (sample, _) = BatchResizeChoice([(64, 32)])(images, [self.sample(), self.sample()])
        assert resized.shape == (2, 3, 64, 32)
        assert torch.equal(resized[..., ::2, :], images[..., ::2])  # twice as high, half as wide, nearest
        assert sample.gt_instances.bboxes.tolist() == [[2.0, 16.0, 10.0, 60.0]]
        assert sample.ignored_instances.bboxes.shape == (0, 4)
        assert sample.batch_input_shape == (64, 32)
        assert sample.pad_shape == (64, 32)
        assert sample.img_shape == (60, 20)
        assert sample.ori_shape == (60, 80)

    def test_its_own_size_changes_nothing(self):
        images, sample = torch.rand(1, 3, 32, 64), self.sample()
        resized, (after,) = BatchResizeChoice([(32, 64)])(images, [sample])
        assert resized is images
        assert after.gt_instances.bboxes.tolist() == [[4.0, 8.0, 20.0, 30.0]]

    def test_sizes_are_drawn_as_often_as_they_are_listed_and_alike_on_every_rank(self):
        augment = BatchResizeChoice([32, 64, 64, 64])

        def draw():
            random.seed(0)
            return [augment(torch.zeros(1, 1, 8, 8), [])[0].shape[-1] for _ in range(400)]

        sides = draw()
        assert 0.2 < sides.count(32) / 400 < 0.3
        assert sides == draw()

    def test_the_preprocessor_trains_with_it_and_tests_without(self, repo):
        cfg = Config.fromfile(repo / 'configs' / 'rtdetr' / 'rtdetr_r18_8xb2-72e_coco.py')
        init_default_scope('mmdet')
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
        assert preprocessor.batch_augments[0].sizes.count((640, 640)) == 3
        assert sorted({height for height, _ in preprocessor.batch_augments[0].sizes}) == list(range(480, 801, 32))
        image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
        sample = DetDataSample(metainfo=dict(img_shape=(64, 64)))
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[16.0, 16, 32, 48]]), labels=torch.tensor([0]))
        data = preprocessor(dict(inputs=[image], data_samples=[deepcopy(sample)]))
        assert torch.allclose(data['inputs'][0], image.flip(0) / 255)  # BGR to RGB
        random.seed(1)
        data = preprocessor(dict(inputs=[image], data_samples=[sample]), training=True)
        side = data['inputs'].shape[-1]
        assert side >= 480
        boxes = data['data_samples'][0].gt_instances.bboxes / side
        torch.testing.assert_close(boxes, torch.tensor([[0.25, 0.25, 0.5, 0.75]]))

    @pytest.mark.parametrize('sizes', [[], [0], [(32, 32, 32)], ['32'], [32.0]])
    def test_mistakes(self, sizes):
        with pytest.raises(ValueError, match='BatchResizeChoice'):
            BatchResizeChoice(sizes)


class TestRandomIoUCrop:
    @staticmethod
    def results(boxes=((10, 10, 30, 30), (50, 40, 90, 70), (0, 0, 100, 80)), ignored=(False, False, True)):
        boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        count = len(boxes)
        rows, columns = np.mgrid[:80, :100]
        return dict(
            img=np.stack([rows, columns, rows], axis=-1).astype(np.uint8),
            img_shape=(80, 100),
            gt_bboxes=HorizontalBoxes(boxes),
            gt_bboxes_labels=np.arange(count),
            gt_ignore_flags=np.array(ignored[:count], dtype=bool),
            gt_masks=BitmapMasks([np.full((80, 100), i + 1, dtype=np.uint8) for i in range(count)], 80, 100),
        )

    @pytest.mark.parametrize('threshold', [0.0, 0.3, 0.9])
    def test_laws(self, threshold):
        np.random.seed(0)
        cropped = 0
        for _ in range(40):
            results = RandomIoUCrop(min_ious=(threshold, 1.0))(self.results())
            height, width = results['img'].shape[:2]
            assert results['img_shape'] == (height, width)
            if (height, width) == (80, 100):
                continue
            cropped += 1
            top, left = (int(value) for value in results['img'][0, 0, :2])  # the image holds its own coordinates
            crop = np.array([left, top, left + width, top + height])
            assert (results['img'][-1, -1, :2] == crop[[3, 2]] - 1).all()
            assert 0.5 <= width / height <= 2 and width >= 30 and height >= 24
            before = self.results()['gt_bboxes'].tensor.numpy()
            centres = before.reshape(-1, 2, 2).mean(axis=1)
            kept = [i for i, c in enumerate(centres) if (c > crop[:2]).all() and (c < crop[2:]).all()]
            assert results['gt_bboxes_labels'].tolist() == kept
            assert results['gt_ignore_flags'].tolist() == [i == 2 for i in kept]
            assert results['gt_masks'].masks.shape == (len(kept), height, width)
            assert [int(mask[0, 0]) - 1 for mask in results['gt_masks'].masks] == kept
            clipped = np.clip(before[kept], crop[[0, 1, 0, 1]], crop[[2, 3, 2, 3]]) - crop[[0, 1, 0, 1]]
            np.testing.assert_allclose(results['gt_bboxes'].tensor.numpy(), clipped)
            best = 0.0
            for i in set(kept) - {2}:  # by hand, and never the ignored one
                x1, y1, x2, y2 = before[i]
                common = max(min(x2, crop[2]) - max(x1, left), 0) * max(min(y2, crop[3]) - max(y1, top), 0)
                best = max(best, common / ((x2 - x1) * (y2 - y1) + width * height - common))
            assert best >= threshold and set(kept) - {2}
        assert (cropped > 10) == (threshold < 0.9)  # no crop of 30 pixels overlaps that much with these objects

    def test_small_objects_do_not_forbid_a_crop_around_a_large_one(self):
        """MMDetection's ``MinIoURandomCrop`` asks every object for the threshold."""
        np.random.seed(0)
        boxes = [(20, 10, 80, 70), (48, 38, 52, 42), (5, 5, 8, 8)]  # the second in any crop that overlaps by 0.7
        crop = RandomIoUCrop(min_ious=(0.7, 1.0))
        sizes = {crop(self.results(boxes, (False,) * 3))['img_shape'] for _ in range(40)}
        assert len(sizes) > 5

    @pytest.mark.parametrize('boxes, prob', [((), 1.0), (((0, 0, 100, 80),), 0.0)])
    def test_an_image_without_objects_or_luck_stays(self, boxes, prob):
        results = RandomIoUCrop(prob=prob, min_ious=(0.0, 1.0))(self.results(boxes))
        assert results['img'].shape == (80, 100, 3)
        assert len(results['gt_bboxes']) == len(boxes)

    @pytest.mark.parametrize(
        'options, words',
        [
            (dict(prob=1.5), 'prob=1.5'),
            (dict(min_ious=(0.1, 0.5)), 'with a 1'),
            (dict(min_ious=(-0.1, 1.0)), 'from 0 to 1'),
        ],
    )
    def test_mistakes(self, options, words):
        with pytest.raises(ValueError, match=words):
            RandomIoUCrop(**options)


def test_training_pipeline_gives_one_size_and_whole_boxes(repo, tmp_path):
    cfg = Config.fromfile(repo / 'configs' / 'rtdetr' / 'rtdetr_r18_8xb2-72e_coco.py')
    init_default_scope('mmdet')
    cv2.imwrite(str(tmp_path / 'image.jpg'), np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    pipeline = Compose(cfg.train_dataloader.dataset.pipeline)
    np.random.seed(0)
    random.seed(0)
    counts = []
    for _ in range(12):
        instances = [
            dict(bbox=box, bbox_label=0, ignore_flag=0)
            for box in ([10, 10, 60, 70], [0, 0, 0.5, 30], [70, 20, 110, 80])  # the second is no box
        ]
        packed = pipeline(dict(img_path=str(tmp_path / 'image.jpg'), img_id=0, instances=instances))
        assert packed['inputs'].shape == (3, 640, 640)
        truth = packed['data_samples'].gt_instances
        boxes = truth.bboxes.tensor
        assert ((boxes[:, 2:] - boxes[:, :2]) > 1).all() and (boxes >= 0).all() and (boxes <= 640).all()
        counts.append(len(truth))
    assert max(counts) == 2 and min(counts) < 2

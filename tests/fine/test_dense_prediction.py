"""Table 7: FINE in Panoptic FPN and Semantic FPN, their figures, and one step of training on tiny files."""

import importlib.util
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoPanopticDataset
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner

# imported for their names in the registries
from mmscale import stack
from mmscale.analysis.complexity import complexity
from mmscale.analysis.model import build_model, load_config, random_batch
from mmscale.datasets.panoptic import LoadPanopticAnnotations, read_segment_ids
from mmscale.engine.cli import is_mistake
from mmscale.engine.hooks.check_data import check_heads, check_labels, leaf_datasets
from mmscale.engine.test import build_parser as build_test_parser
from mmscale.engine.test import prepare as prepare_test
from mmscale.engine.test import test as run_test
from mmscale.engine.train import main as train
from mmscale.evaluation.panoptic_metric import PanopticMetric

from ..engine.conftest import own_process_state  # noqa: F401 (a fixture that every test here uses)

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'fine'
PANOPTIC = 'panoptic-fpn_r50_fpn{}_1x_coco.py'
SEMANTIC = 'semantic-fpn_r50_fpn{}_80k_cityscapes-512x1024.py'

HAS_MMSEG = all(importlib.util.find_spec(name) for name in ('mmseg', 'ftfy', 'regex'))
needs_mmseg = pytest.mark.skipif(
    not HAS_MMSEG,
    reason='mmsegmentation, which is optional, is not installed with all that it imports: '
    'pip install mmsegmentation==1.2.2 ftfy regex',
)

# parameters and multiply-adds, without and with FINE
FIGURES = {
    PANOPTIC: [(46_027_110, 156_693_222_400), (47_079_782, 157_276_492_800)],
    SEMANTIC: [(28_497_907, 90_924_253_184), (29_550_579, 91_729_559_552)],
}
# the paper's: parameters in M, "FLOPs" (multiply-adds) in G
PAPER = {PANOPTIC: [(46.0, 156.7), (47.6, 157.3)], SEMANTIC: [(28.5, 90.9), (30.1, 91.7)]}


@pytest.mark.parametrize('name, size', [(PANOPTIC, (640, 640)), pytest.param(SEMANTIC, (512, 1024), marks=needs_mmseg)])
def test_table_7(name, size):
    """The paper's operations to the last digit; of its parameters, those without FINE (docs/fine.md says why)."""
    for variant, ours, paper in zip(('', '-fine'), FIGURES[name], PAPER[name], strict=True):
        if (name, variant) == (PANOPTIC, ''):
            continue  # slow, and held by tests/analysis/test_complexity.py
        cost = complexity(CONFIGS / name.format(variant), size)
        assert (cost.params, cost.macs) == ours
        assert round(cost.macs / 1e9, 1) == paper[1]
        assert round(cost.params / 1e6, 1) == paper[0] or variant == '-fine'


@pytest.mark.parametrize('name, tokens', [(PANOPTIC, 20 * 20), (SEMANTIC, 16 * 32)])
def test_the_difference_is_two_modules_over_one_token_grid(name, tokens):
    """docs/fine.md's sums: 8 C^2 + 8 C weights a module; 8 C^2 products a token and 2 C a pair of tokens."""
    (params, macs), (fine_params, fine_macs) = FIGURES[name]
    channels = 256
    attention = 2 * 2 * channels * tokens**2
    assert fine_params - params == 2 * (8 * channels**2 + 8 * channels)
    assert fine_macs - macs == 2 * 8 * channels**2 * tokens + attention


@pytest.mark.parametrize('name', [PANOPTIC, SEMANTIC])
def test_the_papers_parameters_are_two_modules_with_a_feed_forward_part(name):
    """4 C^2 + 4 C of attention, 8 C^2 + 5 C of a feed-forward part, two layer norms, one norm of a head."""
    channels, head = 256, 16
    module = 12 * channels**2 + 9 * channels + 4 * channels + head
    (params, _), (paper, _) = FIGURES[name][0], PAPER[name][1]
    assert module == 789_776 and round((params + 2 * module) / 1e6, 1) == paper


def test_table_7_mask_rcnn_is_printed_without_its_mask_branch():
    """134.4 G and 135.5 G are Faster R-CNN's: 187.61 G at 800x800 without 100 proposals through the mask head."""
    model = build_model(load_config(CONFIGS / 'mask-rcnn_r50_fpn_1x_coco.py'))
    mask = complexity(model.roi_head.mask_head, inputs=[torch.zeros(1, 256, 14, 14)])
    assert mask.macs == 529_858_560
    assert (187_607_241_216 - 100 * mask.macs) / 1e9 == pytest.approx(134.4, rel=0.002)


def test_panoptic_model_is_mmdetections():
    """Written out here, because MMDetection has no model layer to inherit."""
    ours = Config.fromfile(CONFIGS / PANOPTIC.format('')).model.to_dict()
    theirs = load_config('mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py').model.to_dict()
    del ours['_scope_'], theirs['semantic_head']['conv_cfg']  # None, its default
    assert ours == theirs


@needs_mmseg
def test_a_segmentor_gets_samples_of_its_own_kind():
    from mmseg.structures import SegDataSample

    cfg = shrink_semantic(load_config(CONFIGS / SEMANTIC.format('-fine')))
    model = build_model(cfg)
    inputs, samples = random_batch(model, (64, 128))
    assert all(type(item) is SegDataSample for item in samples) and inputs.shape == (1, 3, 64, 128)
    assert model(inputs, samples, mode='predict')[0].pred_sem_seg.data.shape == (1, 64, 128)


# ------------------------------------------------------------------------------------------------ without mmseg


ABSENT = 'mmsegmentation is optional, needed here and not installed; mend it with: pip install mmsegmentation==1.2.2 '


@pytest.fixture
def hide(monkeypatch):
    """Makes modules unfindable: ``hide('mmseg')``."""
    find = importlib.util.find_spec

    def hide(*hidden: str) -> None:
        monkeypatch.setattr(
            importlib.util, 'find_spec', lambda name, *rest: None if name in hidden else find(name, *rest)
        )
        monkeypatch.setattr('mmengine.config.config.is_installed', lambda package: package != 'mmsegmentation')

    return hide


def test_a_missing_mmseg_is_a_sentence_with_the_command(hide):
    cfg = Config(dict(model=dict(type='EncoderDecoder'), default_scope='mmseg'))
    hide('mmseg', 'ftfy', 'regex')
    for task in (
        lambda: build_model(cfg),
        lambda: load_config(CONFIGS / SEMANTIC.format('')),
        lambda: load_config('mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py'),
    ):
        with pytest.raises(ModuleNotFoundError) as error:
            task()
        assert str(error.value) == is_mistake(error.value) == f'{ABSENT}ftfy regex', 'one line on the command line'
    hide('regex')
    with pytest.raises(ModuleNotFoundError, match='mmsegmentation lacks regex, which it imports; mend it with: pip'):
        build_model(cfg)


def test_another_missing_package_keeps_its_own_error(monkeypatch, tmp_path):
    (tmp_path / 'other.py').write_text("_base_ = 'mmpose::body/any.py'\n")
    monkeypatch.setattr('mmengine.config.config.is_installed', lambda package: package != 'mmpose')
    with pytest.raises(ModuleNotFoundError, match='^mmpose is not installed'):
        load_config(tmp_path / 'other.py')


def test_the_report_of_the_stack_says_what_an_optional_package_lacks(hide, monkeypatch):
    monkeypatch.setattr(stack, 'try_imports', lambda modules: {})
    monkeypatch.setattr(stack, 'version_of', lambda dists: (dists[0], '1.2.2'))
    verdicts = []
    for hidden in ((), ('regex',), ('ftfy', 'regex')):
        hide(*hidden, *(() if HAS_MMSEG else stack.PACKAGES[-1].parts))
        verdicts.append({row.package: row.verdict for row in stack.examine()[0]}['mmsegmentation'])
    if HAS_MMSEG:
        assert verdicts == ['ok', 'optional, lacks regex', 'optional, lacks ftfy, regex']
    else:
        assert set(verdicts) == {'optional, lacks mmseg, ftfy, regex'}


# ------------------------------------------------------------------------------------------------ semantic


def write_cityscapes(root: Path, size: tuple[int, int] = (64, 128)) -> None:
    """Two images per split in Cityscapes' layout: the left half road (0), the right half sky (10), a strip ignored."""
    generator = np.random.default_rng(0)
    for split in ('train', 'val'):
        for folder in ('leftImg8bit', 'gtFine'):
            (root / folder / split / 'town').mkdir(parents=True)
        for index in range(2):
            image = generator.integers(0, 80, (*size, 3), dtype=np.uint8)
            image[:, size[1] // 2 :] += 120
            labels = np.zeros(size, dtype=np.uint8)
            labels[:, size[1] // 2 :], labels[:4] = 10, 255
            cv2.imwrite(str(root / 'leftImg8bit' / split / 'town' / f'town_{index}_leftImg8bit.png'), image)
            cv2.imwrite(str(root / 'gtFine' / split / 'town' / f'town_{index}_gtFine_labelTrainIds.png'), labels)


def shrink_semantic(cfg: Config) -> Config:
    """The same model, narrow and shallow."""
    cfg.merge_from_dict(
        {
            'model.pretrained': None,
            'model.data_preprocessor.size': (64, 128),
            'model.backbone.depth': 18,
            'model.backbone.base_channels': 8,
            'model.neck.in_channels': [8, 16, 32, 64],
            'model.neck.out_channels': 32,
            'model.decode_head.in_channels': [32] * 4,
            'model.decode_head.channels': 16,
        }
    )
    return cfg


def shrink_loaders(cfg: Config, root: Path) -> None:
    for stage in ('train', 'val', 'test'):
        loader = cfg[f'{stage}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(root)
        for transform in loader.dataset.pipeline:
            if 'scale' in transform:
                transform.scale = (128, 64)
            if 'crop_size' in transform:
                transform.crop_size = (64, 128)


@pytest.fixture
def semantic(tmp_path):
    """The config with FINE, small enough for tests, on tiny files; its path."""
    write_cityscapes(tmp_path / 'data')
    cfg = shrink_semantic(Config.fromfile(CONFIGS / SEMANTIC.format('-fine')))
    shrink_loaders(cfg, tmp_path / 'data')
    cfg.train_cfg.update(max_iters=1, val_interval=1)
    cfg.dump(tmp_path / 'semantic.py')
    return tmp_path / 'semantic.py'


@needs_mmseg
def test_semantic_fpn_trains_a_step_and_is_evaluated(semantic, tmp_path, capsys):
    train([str(semantic), '--work-dir', str(tmp_path / 'run')])
    written = sorted(path.name for path in (tmp_path / 'run').glob('*.pth'))
    assert written == ['best_mIoU_iter_1.pth', 'iter_1.pth']
    weights = torch.load(tmp_path / 'run' / 'iter_1.pth', weights_only=True)['state_dict']
    assert sum(name.startswith('neck.fine.') and name.endswith('query.0.weight') for name in weights) == 2
    assert all(torch.isfinite(value).all() for value in weights.values())
    arguments = [str(semantic), str(tmp_path / 'run' / 'iter_1.pth'), '--work-dir', str(tmp_path / 'test')]
    metrics = run_test(prepare_test(build_test_parser().parse_args(arguments)))
    assert set(metrics) == {'aAcc', 'mIoU', 'mAcc'} and 0 <= metrics['mIoU'] <= 100
    augmented = run_test(prepare_test(build_test_parser().parse_args([*arguments, '--tta'])))
    assert set(augmented) == set(metrics)


@needs_mmseg
def test_semantic_layer_scores_the_truth_100(semantic):
    cfg = Config.fromfile(semantic)
    with DefaultScope.overwrite_default_scope('mmseg'):
        loader, evaluator = Runner.build_dataloader(cfg.val_dataloader), Evaluator(cfg.val_evaluator)
        for dataset in leaf_datasets(loader.dataset):
            check_labels(dataset, 10)
        evaluator.dataset_meta = loader.dataset.metainfo
        assert len(evaluator.dataset_meta['classes']) == cfg.num_classes == 19 and len(loader.dataset) == 2
        for batch in loader:
            for item in batch['data_samples']:
                assert set(item.gt_sem_seg.data.unique().tolist()) == {0, 10, 255}
                item.pred_sem_seg = item.gt_sem_seg
            evaluator.process(batch['data_samples'], batch)
        metrics = evaluator.evaluate(2)
    assert metrics['mIoU'] == pytest.approx(100)


# ------------------------------------------------------------------------------------------------ panoptic


def write_coco_panoptic(root: Path, size: int = 96) -> None:
    """Two images per split: person and dog-like things, a crowd, two kinds of stuff, a strip of void."""
    classes, things = CocoPanopticDataset.METAINFO['classes'], CocoPanopticDataset.METAINFO['thing_classes']
    categories = [dict(id=i + 1, name=name, isthing=int(name in things)) for i, name in enumerate(classes)]
    generator = np.random.default_rng(0)
    for split in ('train', 'val'):
        (root / f'{split}2017').mkdir(parents=True)
        (root / 'annotations' / f'panoptic_{split}2017').mkdir(parents=True)
        images, annotations = [], []
        for key in (1, 2):
            ids = np.full((size, size), 70000 + key)  # an id that needs all three colours
            ids[: size // 2] = 300
            ids[10:40, 10:40], ids[50:90, 20:50], ids[50:80, 60:90], ids[:4] = 5, 6, 7, 0
            labels = {70000 + key: (100, 0), 300: (132, 0), 5: (0, 0), 6: (16, 0), 7: (0, 1)}
            segments = []
            for number, (label, crowd) in labels.items():
                y, x = np.nonzero(ids == number)
                box = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
                segments.append(
                    dict(id=number, category_id=label + 1, iscrowd=crowd, bbox=box, area=int((ids == number).sum()))
                )
            colours = np.stack([ids // 256**2, ids // 256 % 256, ids % 256], axis=-1).astype(np.uint8)  # BGR
            image = (generator.integers(0, 40, (size, size, 3)) + (ids % 7 * 30)[..., None]).astype(np.uint8)
            name = f'{split}_{key}'
            cv2.imwrite(str(root / 'annotations' / f'panoptic_{split}2017' / f'{name}.png'), colours)
            cv2.imwrite(str(root / f'{split}2017' / f'{name}.jpg'), image)
            images.append(dict(id=key, file_name=f'{name}.jpg', height=size, width=size))
            annotations.append(dict(image_id=key, file_name=f'{name}.png', segments_info=segments))
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / 'annotations' / f'panoptic_{split}2017.json').write_text(json.dumps(content))


@pytest.fixture
def panoptic(tmp_path):
    """The config with FINE, small enough for tests, on tiny files; its path."""
    write_coco_panoptic(tmp_path / 'data')
    cfg = Config.fromfile(CONFIGS / PANOPTIC.format('-fine'))
    cfg.merge_from_dict(
        {
            'model.backbone.depth': 18,
            'model.backbone.base_channels': 8,
            'model.backbone.init_cfg': None,
            'model.neck.in_channels': [8, 16, 32, 64],
            'model.roi_head.bbox_head.fc_out_channels': 32,
            'model.train_cfg.rpn_proposal.max_per_img': 20,
            'model.train_cfg.rcnn.sampler.num': 8,
            'model.test_cfg.rpn.max_per_img': 20,
            'model.test_cfg.rcnn.score_thr': 0.0,
            'model.test_cfg.rcnn.max_per_img': 5,
            'model.test_cfg.panoptic.stuff_area_limit': 16,
        }
    )
    shrink_loaders(cfg, tmp_path / 'data')
    for stage in ('train', 'val', 'test'):
        for transform in cfg[f'{stage}_dataloader'].dataset.pipeline:
            if transform.type == 'mmdet.Resize':
                transform.scale = (96, 96)
    for stage in ('val', 'test'):
        cfg[f'{stage}_evaluator'].ann_file = str(tmp_path / 'data' / 'annotations' / 'panoptic_val2017.json')
        cfg[f'{stage}_evaluator'].seg_prefix = str(tmp_path / 'data' / 'annotations' / 'panoptic_val2017')
    cfg.train_cfg.max_epochs = 1
    cfg.dump(tmp_path / 'panoptic.py')
    return tmp_path / 'panoptic.py'


def test_panoptic_fpn_trains_a_step_and_is_evaluated(panoptic, tmp_path):
    train([str(panoptic), '--work-dir', str(tmp_path / 'run')])
    written = sorted(path.name for path in (tmp_path / 'run').glob('*.pth'))
    assert written == ['best_coco_panoptic_PQ_epoch_1.pth', 'epoch_1.pth']
    weights = torch.load(tmp_path / 'run' / 'epoch_1.pth', weights_only=True)['state_dict']
    assert sum(name.startswith('neck.fine.') and name.endswith('query.0.weight') for name in weights) == 2
    assert all(torch.isfinite(value).all() for value in weights.values())
    arguments = [str(panoptic), str(tmp_path / 'run' / 'epoch_1.pth'), '--work-dir', str(tmp_path / 'test')]
    metrics = run_test(prepare_test(build_test_parser().parse_args(arguments)))
    assert set(metrics) == {f'coco_panoptic/{name}{part}' for name in ('PQ', 'SQ', 'RQ') for part in ('', '_th', '_st')}
    assert all(math.isnan(value) or 0 <= value <= 100 for value in metrics.values())


def test_panoptic_layer_scores_the_truth_100(panoptic, tmp_path):
    """And a truth whose things have swapped their classes scores what is left: the stuff."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(panoptic)
    loader = Runner.build_dataloader(cfg.train_dataloader)
    assert len(loader.dataset) == 2 and len(loader.dataset.metainfo['classes']) == cfg.num_classes
    sample = next(iter(loader))['data_samples'][0]
    assert sorted(sample.gt_instances.labels.tolist()) == [0, 16], 'a crowd has no box'
    assert sample.gt_instances.masks.masks.sum((1, 2)).tolist() == [900, 1200]
    assert set(sample.gt_sem_seg.sem_seg.unique().tolist()) == {0, 16, 100, 132, 255}

    loader = Runner.build_dataloader(cfg.val_dataloader)
    for swapped, expected in ((False, (100, 100, 100)), (True, (50, 0, 100))):
        metric = PanopticMetric(cfg.val_evaluator.ann_file, cfg.val_evaluator.seg_prefix)
        metric.dataset_meta = loader.dataset.metainfo
        for batch in loader:
            for item in batch['data_samples']:
                name = Path(item.img_path).stem
                ids = read_segment_ids(f'{cfg.val_evaluator.seg_prefix}/{name}.png')
                predicted = np.select([ids > 70000, ids == 300, ids == 5, ids == 6], [100, 132, 1000, 2016], 133)
                if swapped:
                    predicted = np.select([predicted == 1000, predicted == 2016], [1016, 2000], predicted)
                item = item.to_dict() | dict(pred_panoptic_seg=dict(sem_seg=torch.from_numpy(predicted)[None]))
                metric.process({}, [item])
        metrics = metric.evaluate(2)
        assert [metrics[f'coco_panoptic/PQ{part}'] for part in ('', '_th', '_st')] == pytest.approx(expected)


def test_heads_of_a_panoptic_model_are_compared_with_things(panoptic):
    """Its boxes and masks have 80 classes, its data set 133."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(panoptic)
    dataset = Runner.build_dataloader(cfg.val_dataloader).dataset
    check_heads(build_model(cfg), dataset)
    check_labels(dataset, 10)
    dataset.data_list = [dataset.get_data_info(0)]
    dataset.serialize_data = False
    dataset.data_list[0]['instances'][0]['bbox_label'] = 80
    with pytest.raises(ValueError, match='an object with label 80, but labels 0 to 79 are right for its 80 classes'):
        check_labels(dataset, 10)
    cfg.model.roi_head.bbox_head.num_classes = 133
    with pytest.raises(ValueError, match='bbox_head.num_classes=133 .* has 80 classes'):
        check_heads(build_model(cfg), dataset)


def test_a_panoptic_map_that_does_not_fit_is_a_sentence(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((4, 5, 3), dtype=np.uint8))
    results = dict(seg_map_path=str(tmp_path / 'a.png'), ori_shape=(4, 6), instances=[], segments_info=[])
    with pytest.raises(ValueError, match="panoptic map '.*a.png' has 4x5 pixels, but its image has 4x6"):
        LoadPanopticAnnotations()(results)
    (tmp_path / 'a.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match="panoptic map '.*a.png' cannot be decoded: its 10 bytes start with"):
        LoadPanopticAnnotations()(results)

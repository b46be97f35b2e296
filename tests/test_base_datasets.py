"""Every data layer under configs/_base_/datasets builds on a tiny data set in the documented layout."""
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmscale.engine.hooks.check_data import leaf_datasets
from mmscale.registry import DATASETS

from .datasets.tiny import voc_xml, write_coco, write_image, write_voc

FOLDER = Path(__file__).resolve().parents[1] / 'configs' / '_base_' / 'datasets'
DENSE = ('cityscapes_semantic', 'coco_panoptic')  # no boxes to evaluate: tests/fine/test_dense_prediction.py
LAYERS = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem not in DENSE)

# layer: per split the COCO file and the folder of its images
COCO_LAYOUTS = {
    'coco_detection': [(f'data/coco/annotations/instances_{s}2017.json', f'data/coco/{s}2017')
                       for s in ('train', 'val')],
    'visdrone_det': [(f'data/visdrone/annotations/{s}.json', f'data/visdrone/VisDrone2019-DET-{s}/images')
                     for s in ('train', 'val')],
    'nwpu_vhr10': [(f'data/nwpu_vhr10/annotations/{s}.json', 'data/nwpu_vhr10/positive image set')
                   for s in ('train', 'val')],
    'micro_uav': [(f'data/micro_uav/annotations/{s}.json', f'data/micro_uav/images/{s}') for s in ('train', 'val')],
    'dior': [(f'data/dior/annotations/{s}.json', f'data/dior/JPEGImages-{s}') for s in ('trainval', 'test')],
    'small_objects': [(f'data/small_objects/annotations/{s}.json', f'data/small_objects/{s}')
                      for s in ('train', 'val')],
    'cityscapes_detection': [(f'data/cityscapes/annotations/instancesonly_filtered_gtFine_{s}.json',
                              f'data/cityscapes/leftImg8bit/{s}') for s in ('train', 'val')],
}
COCO_LAYOUTS['coco2014_detection'] = [(file.replace('2017', '2014'), folder.replace('2017', '2014'))
                                      for file, folder in COCO_LAYOUTS['coco_detection']]
COCO_LAYOUTS['coco_instance'] = COCO_LAYOUTS['coco_detection']
COCO_LAYOUTS['cityscapes_instance'] = COCO_LAYOUTS['cityscapes_detection']
VOC_LAYOUTS = {
    'voc0712': [('data/VOCdevkit/VOC2007', 'trainval'), ('data/VOCdevkit/VOC2012', 'trainval'),
                ('data/VOCdevkit/VOC2007', 'test')],
    'bccd': [('data/bccd', 'train'), ('data/bccd', 'val'), ('data/bccd', 'test')],
}


def lay_out(layer: str, classes: tuple[str, ...]) -> None:
    """Writes two images per split: one with the first and the last class, one without objects."""
    for split, (file, folder) in enumerate(COCO_LAYOUTS.get(layer, [])):
        boxes = [dict(image_id=1, category_id=category, bbox=[5, 5, 20, 20], segmentation=[[5, 5, 25, 5, 25, 25]])
                 for category in {1, len(classes)}]
        names = {key: f'{split}_{key}.jpg' for key in (1, 2)}  # so that folders cannot stand in for each other
        write_coco(Path(file), [dict(id=key, file_name=name) for key, name in names.items()], boxes, classes)
        for name in names.values():
            write_image(Path(folder) / name)
    for root, split in VOC_LAYOUTS.get(layer, []):
        objects = [(name, 6, 6, 26, 26) for name in {classes[0], classes[-1]}]
        write_voc(Path(root), {f'{split}_1': voc_xml(objects), f'{split}_2': voc_xml()}, split)


def inner_configs(dataset) -> list:
    """The configs of the data sets inside any wrappers."""
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    return [leaf for item in inner for leaf in inner_configs(item)] or [dataset]


def build_loader(cfg) -> object:
    cfg.update(num_workers=0, persistent_workers=False)
    for dataset in inner_configs(cfg['dataset']):
        dataset['serialize_data'] = False  # serialising ends with a slow collection of garbage
    return Runner.build_dataloader(cfg)


def test_every_layer_has_a_layout_here():
    assert sorted([*COCO_LAYOUTS, *VOC_LAYOUTS]) == LAYERS


@pytest.mark.parametrize('layer', LAYERS)
def test_a_layer_builds_and_gives_a_batch(layer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmdet')
    cfg = Config.fromfile(FOLDER / f'{layer}.py')
    classes = tuple(cfg.get('metainfo', {}).get('classes', ())) or default_classes(cfg.train_dataloader)
    assert cfg.num_classes == len(classes)
    lay_out(layer, classes)
    for stage in ('train', 'val', 'test'):
        loader = build_loader(cfg[f'{stage}_dataloader'])
        leaves = list(leaf_datasets(loader.dataset))
        assert all(tuple(leaf.metainfo['classes']) == classes for leaf in leaves)
        batch = next(iter(loader))
        truth = batch['data_samples'][0].gt_instances
        assert len(truth) == len({1, len(classes)}) and sorted(truth.labels.tolist()) == sorted({0, len(classes) - 1})
        assert min(batch['inputs'][0].shape[1:]) > 48, 'enlarged'
        if stage == 'train':
            assert all(len(leaf) == 1 for leaf in leaves), 'images without objects are left out'
            assert ('masks' in truth) == layer.endswith('_instance')
            continue
        assert len(loader.dataset) == 2
        np.testing.assert_allclose(truth.bboxes.tensor.numpy()[0], [5, 5, 25, 25])
        evaluator = Evaluator(cfg[f'{stage}_evaluator'])
        evaluator.dataset_meta = loader.dataset.metainfo
        evaluate_perfectly(evaluator, loader)


def default_classes(loader) -> tuple[str, ...]:
    """The classes that the data set brings along."""
    dataset = inner_configs(loader['dataset'])[0]
    return tuple(DATASETS.get(dataset['type'].removeprefix('mmscale.')).METAINFO['classes'])


def evaluate_perfectly(evaluator, loader) -> None:
    """The ground truth as detections scores 1 under every protocol."""
    for batch in loader:
        for item in batch['data_samples']:
            item.pred_instances = item.gt_instances.clone()
            item.pred_instances.scores = item.gt_instances.labels.float() * 0 + 0.9
            if 'masks' in item.pred_instances:
                item.pred_instances.masks = item.gt_instances.masks.to_tensor(torch.bool, 'cpu')
        evaluator.process(batch['data_samples'], batch)
    metrics = evaluator.evaluate(len(loader.dataset))
    assert metrics['coco/AP'] == pytest.approx(1) and metrics['coco/AP_S'] == pytest.approx(1)
    assert np.isnan(metrics['coco/AP_L']) and np.isnan(metrics.get('coco/segm_mAP_l', np.nan))
    assert next(iter(metrics)) in ('coco/AP', 'voc07/mAP'), "what save_best='auto' takes"
    for name in ('voc07/mAP', 'voc12/mAP', 'visdrone/AP', 'coco/segm_mAP'):
        assert metrics.get(name, 1) == pytest.approx(1)


def test_protocols_of_the_layers():
    evaluators = {layer: Config.fromfile(FOLDER / f'{layer}.py').val_evaluator for layer in LAYERS}
    boxes = {layer: found[0] if isinstance(found, list) else found for layer, found in evaluators.items()}
    protocols = {layer: evaluator.protocols for layer, evaluator in boxes.items()}
    assert all('coco' in names for names in protocols.values())
    masks = {layer: found[1].metric for layer, found in evaluators.items() if isinstance(found, list)}
    assert masks == dict.fromkeys([layer for layer in LAYERS if layer.endswith('_instance')], 'segm')
    assert 'voc07' in protocols['voc0712'] and 'voc07' in protocols['bccd'] and 'visdrone' in protocols['visdrone_det']


def test_the_best_checkpoint_has_the_highest_figure():
    """'auto' takes the first name, whose direction MMEngine cannot guess and the runtime tells."""
    options = Config.fromfile(FOLDER.parent / 'default_runtime.py').default_hooks.checkpoint
    hook = CheckpointHook(**{key: value for key, value in options.items() if key != 'type'})
    hook._init_rule(hook.rules, ['coco/AP'])
    assert hook.save_best == ['auto'] or hook.save_best == 'auto'
    assert hook.rules == ['greater'] and hook.is_better_than['coco/AP'](0.2, 0.1)


def test_bccd_builds_on_the_real_data(bccd_root, monkeypatch):
    monkeypatch.chdir(bccd_root.parents[1])
    init_default_scope('mmdet')
    cfg = Config.fromfile(FOLDER / 'bccd.py')
    sizes = {}
    for stage in ('train', 'val', 'test'):
        loader = build_loader(cfg[f'{stage}_dataloader'])
        sizes[stage] = len(loader.dataset)
        sides = [box[i + 2] - box[i] for index in range(len(loader.dataset)) for i in (0, 1)
                 for box in [instance['bbox'] for instance in loader.dataset.get_data_info(index)['instances']]]
        assert min(sides) >= 1
        assert next(iter(loader))['inputs'][0].shape == (3, 480, 640)
    assert sizes == dict(train=205, val=87, test=72)


def test_a_child_gets_the_number_of_classes(tmp_path):
    path = tmp_path / 'child.py'
    path.write_text(f"_base_ = '{FOLDER / 'bccd.py'}'\nhead = dict(num_classes={{{{_base_.num_classes}}}})\n")
    assert Config.fromfile(path)['head']['num_classes'] == 3

"""HSD-DETR's configs and tables: they build, say what they should, and change nothing else."""

from functools import cache

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, init_default_scope

from mmscale.analysis.detector import load_detector
from mmscale.hsd_detr import DSAIFI, HCSSNet, RFMPDIoULoss, SPDMixer, SPDMixerResNetVd
from mmscale.paths import config_root
from mmscale.reproduce.config import row_config
from mmscale.reproduce.spec import find
from mmscale.rtdetr import ResNetVd

from ..rtdetr.test_configs import build, changed

FOLDER = config_root() / 'hsd_detr'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
LAYERS = {
    'visdrone': 'visdrone_det',
    'bccd': 'bccd',
    'dior': 'dior',
    'nwpu-vhr10': 'nwpu_vhr10',
    'small-objects': 'small_objects',
}
WIDTHS = {'t': [64, 128, 256], 's': [96, 192, 384], 'b': [128, 256, 512]}
PARTS = {  # of a row's name: backbone, stem, what is in AIFI's place, box loss
    'rtdetr': (ResNetVd, None, 'AIFI', 'GIoULoss'),
    'hcssnet': (HCSSNet, None, 'AIFI', 'GIoULoss'),
    'spdmixer': (SPDMixerResNetVd, SPDMixer, 'AIFI', 'GIoULoss'),
    'dsaifi': (ResNetVd, None, 'DSAIFI', 'GIoULoss'),
    'rf-mpdiou': (ResNetVd, None, 'AIFI', 'RFMPDIoULoss'),
    'all': (HCSSNet, SPDMixer, 'DSAIFI', 'RFMPDIoULoss'),
}


@cache
def load(name) -> Config:
    """One of the configs; shared, so leave it as it is."""
    return Config.fromfile(FOLDER / f'{name}.py')


@cache
def row_model(key, name):
    """The model of a table's row; shared, so leave it as it is."""
    table = find(f'hsd_detr/{key}')[0]
    return build(row_config(table, table.row(name)))


def leaves(dataset) -> list:
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    return [leaf for item in inner for leaf in leaves(item)] or [dataset]


def classes_of(dataset) -> tuple[str, ...]:
    """As the data set will have them."""
    own = dataset.get('metainfo', {}).get('classes')
    return tuple(own or DATASETS.get(dataset['type']).METAINFO['classes'])


def test_every_data_set_is_known_here():
    assert {next(data for data in LAYERS if name.endswith(data)) for name in NAMES} == set(LAYERS)


@pytest.mark.parametrize('name', NAMES)
def test_a_config_builds_and_has_its_datas_classes(name):
    cfg = load(name)
    init_default_scope('mmdet')
    layer = Config.fromfile(FOLDER.parent / '_base_' / 'datasets' / f'{LAYERS[name.split("e_")[1]]}.py')
    expected = classes_of(leaves(layer.train_dataloader['dataset'])[0])
    assert len(expected) == layer.num_classes == cfg.model.bbox_head.num_classes
    for split in ('train', 'val', 'test'):
        theirs = leaves(layer[f'{split}_dataloader']['dataset'])
        for leaf, other in zip(leaves(cfg[f'{split}_dataloader']['dataset']), theirs, strict=True):
            assert classes_of(leaf) == expected
            assert (leaf.ann_file, leaf.data_root) == (other.ann_file, other.data_root)
    assert cfg.test_evaluator == layer.test_evaluator
    model = build(cfg)
    assert model.bbox_head.cls_branches[-1].out_features == layer.num_classes
    is_hsd = name.startswith('hsd-detr')
    assert isinstance(model.backbone, HCSSNet) == isinstance(model.neck.aifi, DSAIFI) == is_hsd
    assert isinstance(model.bbox_head.loss_iou, RFMPDIoULoss) == is_hsd
    if is_hsd:
        assert model.backbone.out_channels == WIDTHS[name[9]] == cfg.model.neck.in_channels
        assert cfg.model.backbone.get('init_cfg') is None, 'no weights exist that it could start from'
        loss = model.bbox_head.loss_iou
        assert (loss.focal, loss.alpha, loss.corners, loss.loss_weight) == ((0.0, 0.95), 1.0, True, 2.0)


def test_dior():
    """The names as the XML files spell them, capitals included."""
    classes = load('hsd-detr_s_72e_dior').train_dataloader.dataset.metainfo.classes
    assert len(set(classes)) == 20
    assert [name for name in classes if not name.islower()] == ['Expressway-Service-area', 'Expressway-toll-station']


def rates(cfg) -> dict[str, float]:
    """Learning rate of every parameter, as a share of the config's own."""
    model = build(cfg)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: group['lr'] / cfg.optim_wrapper.optimizer.lr for group in groups for p in group['params']}
    assert len(found) == len(names)
    return found


@pytest.mark.parametrize('name', NAMES)
def test_new_parts_learn_at_the_full_rate(name):
    found = rates(load(name))
    pretrained = [key for key in found if key.startswith('backbone.')]
    if name == 'rtdetr_r18_spdmixer_72e_visdrone':
        stem = [key for key in pretrained if key.startswith('backbone.stem.')]
        assert len(stem) > 8 and len(pretrained) > 60
        pretrained = [key for key in pretrained if key not in stem]
    elif name.startswith('hsd-detr') or '_12e_' in name:
        pretrained = []  # of random weights all
    assert {key for key, rate in found.items() if rate != 1} == set(pretrained)
    assert all(found[key] == pytest.approx(0.1) for key in pretrained)


def test_a_table_row_with_hcssnet_learns_at_the_full_rate_too():
    table = find('hsd_detr/parts')[0]
    assert set(rates(row_config(table, table.row('hcssnet'))).values()) == {1.0}


def test_hsd_detr_is_rtdetr_but_for_its_parts():
    small = '../rtdetr/rtdetr_r18_12e_small-objects'
    for hsd, plain in (('s_72e_visdrone', 'rtdetr_r18_72e_visdrone'), ('t_12e_small-objects', small)):
        keys = changed(load(f'hsd-detr_{hsd}'), load(plain))
        parts = ('model.backbone.', 'model.neck.aifi.', 'model.bbox_head.loss_iou.')
        rest = {key for key in keys if not key.startswith(parts)}
        rate = 'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult'
        assert rest == ({'model.neck.in_channels', rate} if '72e' in hsd else set())
    stem = changed(load('rtdetr_r18_spdmixer_72e_visdrone'), load('rtdetr_r18_72e_visdrone'))
    rate = 'optim_wrapper.paramwise_cfg.custom_keys.backbone.stem.lr_mult'
    assert stem == {'model.backbone.type', rate}


@pytest.mark.parametrize('size', ['t', 'b'])
def test_sizes_differ_in_the_backbone_alone(size):
    keys = changed(load(f'hsd-detr_{size}_72e_visdrone'), load('hsd-detr_s_72e_visdrone'))
    assert keys == {'model.backbone.arch', 'model.neck.in_channels'}


@pytest.mark.parametrize('data', ['bccd', 'dior', 'nwpu-vhr10'])
def test_other_data_keep_the_recipe(data):
    cfg, visdrone = load(f'hsd-detr_s_72e_{data}'), load('hsd-detr_s_72e_visdrone')
    recipe = ('param_scheduler', 'optim_wrapper', 'train_cfg', 'auto_scale_lr', 'sync_bn', 'custom_hooks')
    different = {key for key in changed(cfg, visdrone) if key.startswith(('model', *recipe))}
    expected = {'model.bbox_head.num_classes', 'model.test_cfg.max_per_img'}
    if data == 'nwpu-vhr10':
        expected.remove('model.bbox_head.num_classes')  # ten, as VisDrone
    if data == 'bccd':
        expected.add('param_scheduler')  # few steps in an epoch
    assert different == expected
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.pipeline == visdrone[f'{split}_dataloader'].dataset.pipeline
    assert cfg.train_dataloader.batch_size == 2 and cfg.train_dataloader.batch_sampler is None


@pytest.mark.parametrize('table', find('hsd_detr'), ids=lambda table: table.key)
def test_every_row_builds(table):
    for row in table.rows:
        model = row_model(table.key, row.name)
        if table.key in ('parts', 'small-bccd', 'small-objects'):
            backbone, stem, attention, loss = PARTS[row.name]
            assert type(model.backbone) is backbone
            assert (type(model.backbone.stem) is SPDMixer) == (stem is SPDMixer)
            assert type(model.neck.aifi).__name__ == attention and type(model.bbox_head.loss_iou).__name__ == loss
            assert model.bbox_head.loss_iou.loss_weight == 2.0


@pytest.mark.parametrize('key', ['rf-mpdiou', 'small-rf-mpdiou'])
def test_stages_of_the_loss(key):
    table = find(f'hsd_detr/{key}')[0]
    found = {}
    for row in table.rows[1:]:
        loss = row_model(key, row.name).bbox_head.loss_iou
        found[row.name] = (loss.focal, loss.alpha, loss.corners)
        assert loss.loss_weight == 2.0
    mapping = (0.0, 0.95)
    assert found == {
        'iou': (None, None, False),
        'focaler-iou': (mapping, None, False),
        'mpdiou': (None, None, True),
        'rf-mpdiou': (mapping, 1.0, True),
    }


def test_rows_of_the_fusion():
    table = find('hsd_detr/hcss-fusion')[0]
    found = {}
    for row in table.rows:
        fusion = row_model('hcss-fusion', row.name).backbone.stages[2][1].fusion
        scan = fusion.ss2d
        found[row.name] = (len(scan.directions), scan.in_proj.out_channels, scan.num_heads, scan.state_channels)
        assert fusion.local.conv.kernel_size[0] == (5 if row.name == 'kernel5' else 3)
    same = (4, 384, 12, 16)
    assert found == {
        'full': same,
        'kernel5': same,
        'rows': (2, 384, 12, 16),
        'one-way': (1, 384, 12, 16),
        'expansion1': (4, 192, 12, 16),
        'state32': (4, 384, 12, 32),
    }


def test_another_models_checkpoint_gives_one_sentence(tmp_path):
    init_default_scope('mmdet')
    other = build(Config.fromfile(config_root() / 'rtdetr' / 'rtdetr_r18_12e_bccd.py')).to_empty(device='cpu')
    torch.save(dict(state_dict=other.state_dict()), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='belongs to another model') as stop:
        load_detector(FOLDER / 'hsd-detr_t_12e_bccd.py', tmp_path / 'other.pth')
    assert '\n' not in str(stop.value) and 'backbone.stem' in str(stop.value)

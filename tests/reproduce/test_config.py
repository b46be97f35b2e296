from copy import deepcopy
from dataclasses import replace

import pytest
from mmengine.config import Config, ConfigDict

from mmscale.reproduce.config import Settings, count_config, row_config
from mmscale.reproduce.dataset import data_layers, resize_images, swap_dataset
from mmscale.reproduce.optional import describe_waiting, mark_waiting
from mmscale.reproduce.overrides import apply_overrides
from mmscale.reproduce.pretrained import from_scratch, pretrained_files, require_pretrained
from mmscale.reproduce.schedule import fit_schedule, set_epochs
from mmscale.reproduce.spec import SpecError, find, load_papers


def table(name):
    return find(name)[0]


@pytest.fixture(scope='module')
def parsed(repo):
    return Config.fromfile(repo / 'configs' / 'fine' / 'faster-rcnn_r50_fpn-fine_1x_coco.py')


@pytest.fixture
def cfg(parsed):
    return deepcopy(parsed)


@pytest.mark.parametrize('name', [t.name for paper in load_papers().values() for t in paper.tables.values()])
def test_every_row_of_every_table_has_a_config(name):
    marked = mark_waiting(table(name))
    if not marked.select():
        pytest.skip('; '.join(describe_waiting(marked)))
    for row in marked.select():
        cfg = row_config(table(name), row)
        assert cfg.model.type and cfg.test_evaluator
        count_config(table(name), row)


def test_rows_differ_as_they_say():
    ablation = table('fine/table4')
    heads = [row_config(ablation, ablation.row(name)).model.neck.fine.num_heads for name in ('heads1', 'heads128')]
    assert heads == [1, 128]
    assert row_config(ablation, ablation.row('baseline')).model.neck.type == 'FPN'
    assert table('fine/table5').evaluators[0]['type'] in str(
        row_config(table('fine/table5'), table('fine/table5').row('fine')).test_evaluator
    )


def test_a_row_may_bring_its_own_data():
    nwpu, voc = table('hmpe/table1-nwpu'), table('hmpe/table1-voc')
    assert nwpu.row('ssd').config == voc.row('ssd').config
    assert row_config(nwpu, nwpu.row('ssd')).model.bbox_head.num_classes == 10
    cfg = row_config(voc, voc.row('ssd'))
    assert cfg.model.bbox_head.num_classes == count_config(voc, voc.row('ssd')).model.bbox_head.num_classes == 20
    assert cfg.train_dataloader.dataset.times == 1  # its overrides come after its data
    assert row_config(voc, voc.row('ssd'), Settings(dataset='bccd')).model.bbox_head.num_classes == 3
    unknown = replace(voc.row('ssd'), dataset='voc07')
    with pytest.raises(SpecError, match="row 'ssd', 'dataset': there is no data layer 'voc07', did you mean 'voc0712'"):
        row_config(voc, unknown)


def test_count_set_changes_the_count_alone():
    classic = table('fine/table1-classic')
    row = classic.row('retinanet')
    assert count_config(classic, row).model.bbox_head.num_classes == 91
    assert row_config(classic, row).model.bbox_head.num_classes == 80


@pytest.mark.parametrize(
    'overrides',
    [
        {'model.neck.fine.num_heads': 4},  # an argument of FINE that the config does not spell out
        {'model.neck.fine_kernels': [1, 1]},  # of FINEFPN
        {'model.neck.add_extra_convs': 'on_input'},  # of FPN, to which FINEFPN hands on
        {'model.neck.fine.attention': {'type': 'mmscale.WindowCrossLevelAttention', 'window_size': 5}},
        {'model.neck.upsample_cfg': {'mode': 'bilinear'}},  # a plain dict
        {'model.rpn_head.anchor_generator.scales': [4]},  # spelled out in the config
        {'model.neck': {'_delete_': True, 'type': 'FPN', 'in_channels': [256] * 4, 'out_channels': 256, 'num_outs': 5}},
        {'optim_wrapper.optimizer.nesterov': True},
        {'param_scheduler.1.milestones': [1]},
        {'randomness.deterministic': True},  # the config has none, the runner reads it
        {'optim_wrapper.paramwise_cfg': {'norm_decay_mult': 0.0}},  # for the builder of the optimizer
        {'model.neck.norm_cfg': {'type': 'BN', 'requires_grad': False}},  # for the builder of the layer
        {'model.backbone.norm_cfg.type': 'SyncBN'},  # which keeps the config's requires_grad
        {'model.test_cfg.rcnn.nms': {'type': 'soft_nms', 'min_score': 0.1}},  # MMCV's own names
        {'model.train_cfg.rcnn.sampler.floor_fraction': 0.1},
    ],
)
def test_overrides_that_fit(cfg, overrides):
    apply_overrides(cfg, overrides)
    for key, value in overrides.items():
        node = cfg
        for part in key.split('.'):
            node = node[int(part)] if part.isdigit() else node[part]
        expected = {k: v for k, v in value.items() if k != '_delete_'} if isinstance(value, dict) else value
        assert node == expected or {**node, **expected} == node, 'merged, or in its place'


@pytest.mark.parametrize(
    'overrides, sentence',
    [
        ({'model.neck.fine.num_head': 4}, "FINE takes no 'num_head', did you mean 'num_heads'?"),
        ({'model.nek.num_outs': 5}, "FasterRCNN takes no 'nek', did you mean 'neck'?"),
        ({'model.test_cfg.rcnn.score_th': 0.1}, "'model.test_cfg.rcnn.score_th', did you mean 'score_thr'?"),
        ({'modle.neck.num_outs': 5}, "the config has no 'modle', did you mean 'model'?"),
        ({'model.neck.fine.attention': {'type': 'mmscale.Nothing'}}, "no registry knows the type 'mmscale.Nothing'"),
        (
            {'model.neck.fine.attention': {'type': 'mmscale.WindowCrossLevelAttention', 'size': 5}},
            "WindowCrossLevelAttention takes no 'size'",
        ),
        ({'param_scheduler.7.end': 3}, 'does not fit into the config'),
        ({'max_epoch': 3}, "the config has no 'max_epoch'"),
        ({'model.neck.type': 'FPNN'}, "no registry knows the type 'FPNN'"),
        (
            {'model.neck.type': 'FPN', 'model.neck.num_outs': 5},
            "was 'mmscale.FINEFPN', and FPN takes no 'fine.*_delete_",
        ),
        ({'model.neck': {'_delete_': True}}, "'model.neck' has no 'type' any more"),
        ({'train_pipeline.2.scale': [3, 4]}, "'train_pipeline' is a variable of the config file"),
        (
            {'model.neck.in_channels.0': 5},
            "'model.neck.in_channels.0' does not fit .*: a list of plain values is set as a",
        ),
        ({'model.rpn_head.anchor_generator.scale': [8]}, "AnchorGenerator takes no 'scale', did you mean 'scales'?"),
    ],
)
def test_overrides_of_what_nothing_reads(cfg, overrides, sentence):
    with pytest.raises(ValueError, match=sentence.replace('?', r'\?')):
        apply_overrides(cfg, overrides)


def test_a_dict_takes_an_items_place_in_a_list(cfg):
    cfg.model.neck = [cfg.model.neck, dict(type='mmdet.BFP', in_channels=256, num_levels=5, refine_level=2)]
    before = deepcopy(cfg.model.neck[0])
    apply_overrides(cfg, {'model.neck.1': {'_delete_': True, 'type': 'mmscale.SENeck', 'in_channels': [256] * 5}})
    assert cfg.model.neck == [before, {'type': 'mmscale.SENeck', 'in_channels': [256] * 5}]
    apply_overrides(cfg, {'model.neck.1': {'reduction': 8}})  # merged
    assert cfg.model.neck[1] == {'type': 'mmscale.SENeck', 'in_channels': [256] * 5, 'reduction': 8}
    with pytest.raises(ValueError, match="SENeck takes no 'reductions', did you mean 'reduction'"):
        apply_overrides(cfg, {'model.neck.1.reductions': 8})


def test_a_wrong_override_names_file_table_and_row(tmp_path, repo):
    from mmscale.reproduce.spec import load_paper

    folder = tmp_path / 'wrong'
    folder.mkdir()
    config = "_base_ = 'mmscale::fine/fcos_r18_fpn-fine_2e_bccd.py'\n"
    (folder / 'base.py').write_text(config)
    (folder / 'tables.yml').write_text("""
title: t
reference: r
tables:
  table1:
    title: t
    source: s
    recipe: {paper: a, ours: b}
    base: base.py
    task: detection
    metrics: {AP: coco/AP}
    rows: [{name: typo, label: Typo, set: {model.neck.fine.heads: 4}}]
""")
    wrong = load_paper(folder / 'tables.yml').tables['table1']
    evaluators = ({'type': 'mmscale.DetectionErrorMetric', 'iou_th': 0.5},)
    with pytest.raises(
        SpecError, match="table 'table1', 'evaluators': DetectionErrorMetric takes no 'iou_th', did you"
    ):
        row_config(replace(wrong, evaluators=evaluators), replace(wrong.rows[0], set={}))
    with pytest.raises(SpecError, match=r"tables.yml: table 'table1', row 'typo', 'set': .*FINE takes no 'heads'"):
        row_config(wrong, wrong.rows[0])


@pytest.mark.parametrize('name', ['bccd', 'voc0712', 'small_objects'])
def test_another_data_layer_under_a_row(name):
    ablation = table('fine/table4')
    own = row_config(ablation, ablation.row('heads4'))
    cfg = row_config(ablation, ablation.row('heads4'), Settings(dataset=name))
    count = {'bccd': 3, 'voc0712': 20, 'small_objects': 4}[name]
    assert cfg.model.roi_head.bbox_head.num_classes == count
    assert cfg.model.rpn_head == own.model.rpn_head and cfg.model.backbone == own.model.backbone
    leaf = cfg.train_dataloader.dataset
    while 'pipeline' not in leaf:
        leaf = leaf.datasets[0] if 'datasets' in leaf else leaf.dataset
    assert leaf.type == ('mmscale.CocoDataset' if name == 'small_objects' else 'mmscale.VOCDataset')
    assert leaf.pipeline == own.train_dataloader.dataset.pipeline, 'the augmentation is the recipe'
    assert cfg.train_dataloader.batch_size == own.train_dataloader.batch_size
    assert cfg.val_evaluator.type == 'mmscale.DetectionMetric' and 'instances_val2017' not in str(cfg.val_evaluator)


def test_an_unknown_data_layer_or_one_without_masks():
    masks = table('fine/table7-instance')
    with pytest.raises(ValueError, match="the row is of masks, and the data layer 'bccd' of boxes"):
        row_config(masks, masks.row('fine'), Settings(dataset='bccd'))
    with pytest.raises(ValueError, match="there is no data layer 'bcd', did you mean 'bccd'"):
        row_config(masks, masks.row('fine'), Settings(dataset='bcd'))
    assert 'coco_panoptic' in data_layers()


KINDS = dict(
    boxes={'bccd', 'cityscapes_detection', 'coco_detection', 'coco2014_detection', 'micro_uav', 'dior', 'nwpu_vhr10',
           'small_objects', 'visdrone_det', 'voc0712'},
    masks={'coco_instance', 'cityscapes_instance'},
    panoptic={'coco_panoptic'},
    semantic={'cityscapes_semantic'},
)  # fmt: skip


@pytest.mark.parametrize(
    'name, row, kind',
    [
        ('fine/table4', 'heads4', 'boxes'),
        ('fine/small-fcos', 'fine', 'boxes'),  # its config names classes, which another layer may not
        ('fine/table5', 'fine', 'masks'),
        ('fine/table7-panoptic', 'fine', 'panoptic'),
        ('fine/table7-semantic', 'fine', 'semantic'),
    ],
)
def test_every_data_layer_fits_or_is_refused_before_anything_is_trained(name, row, kind):
    fitting = set()
    for layer in data_layers():
        try:
            cfg = row_config(table(name), table(name).row(row), Settings(dataset=layer))
        except ValueError as error:
            assert f"the data layer '{layer}' of " in str(error)
        else:
            fitting.add(layer)
            classes = cfg.get('metainfo', {}).get('classes')
            assert classes is None or len(classes) == cfg.num_classes, 'the other layer left its classes'
    assert fitting == KINDS[kind]


def test_wrappers_of_the_pipeline_stay_and_those_of_the_data_go(cfg):
    mosaic = [dict(type='Mosaic', img_scale=(64, 64))]
    inner = dict(type='RepeatDataset', times=5, dataset=dict(type='CocoDataset', pipeline=[dict(type='PackDetInputs')]))
    cfg.train_dataloader.dataset = ConfigDict(type='MultiImageMixDataset', dataset=inner, pipeline=mosaic)
    swap_dataset(cfg, 'bccd')
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == 'MultiImageMixDataset' and dataset.pipeline == mosaic
    assert dataset.dataset.type == 'mmscale.VOCDataset'
    # no step loads annotations in the config's own pipeline: the layer's does
    assert [step.type for step in dataset.dataset.pipeline] == ['mmdet.LoadAnnotations', 'PackDetInputs']


def test_image_scale(cfg):
    cfg.train_dataloader.dataset.pipeline.append(ConfigDict(type='RandomChoiceResize', scales=[(1, 2), (3, 4)]))
    resize_images(cfg, (320, 240))
    for split in ('train', 'test'):
        for step in cfg[f'{split}_dataloader'].dataset.pipeline:
            if 'Resize' in step.type:
                assert step.get('scale', (320, 240)) == (320, 240) and step.get('scales', [(320, 240)]) == [(320, 240)]


def test_image_scale_is_not_undone_by_a_batch(cfg):
    """RT-DETR's recipe resizes whole batches behind the pipeline."""
    pad, resize = dict(type='BatchFixedSizePad', size=(1, 1)), dict(type='mmscale.BatchResizeChoice', sizes=[640])
    cfg.model.data_preprocessor.batch_augments = [pad, resize]
    resize_images(cfg, (320, 240))
    assert cfg.model.data_preprocessor.batch_augments == [pad]
    cfg.model.data_preprocessor.batch_augments = [resize]
    resize_images(cfg, (320, 240))
    assert cfg.model.data_preprocessor.batch_augments is None


def test_classes_stay_reported_under_another_data_layer(cfg):
    plain = deepcopy(cfg)
    swap_dataset(plain, 'voc0712')
    assert not plain.test_evaluator.get('classwise')
    cfg.val_evaluator = ConfigDict(type='mmscale.DetectionMetric', protocols='voc07', classwise=True)
    cfg.test_evaluator = deepcopy(cfg.val_evaluator)
    swap_dataset(cfg, 'bccd')
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.classwise and tuple(evaluator.protocols) == ('coco', 'voc07'), "all else is the layer's"


def test_a_shorter_run_keeps_the_shape_of_its_schedule(cfg):
    assert cfg.train_cfg.max_epochs == 12 and cfg.param_scheduler[1].milestones == [8, 11]
    set_epochs(cfg, 6)
    assert cfg.train_cfg.max_epochs == 6
    assert cfg.param_scheduler[1].milestones == [4, 6] and cfg.param_scheduler[1].end == 6
    assert cfg.param_scheduler[0].end == 500, 'a warm-up by iterations waits for the length of an epoch'
    fit_schedule(cfg, iterations_per_epoch=50)
    assert cfg.param_scheduler[0].end == 30, 'a tenth of 300'
    fit_schedule(cfg, iterations_per_epoch=100_000)
    assert cfg.param_scheduler[0].end == 30
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match='must be a whole number from 1'):
            set_epochs(cfg, wrong)


def test_a_loop_by_iterations_is_fitted_to_epochs():
    cfg = Config(
        dict(
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=80_000, val_interval=8000),
            param_scheduler=[
                dict(type='LinearLR', by_epoch=False, begin=0, end=1500, start_factor=1e-6),
                dict(type='PolyLR', by_epoch=False, begin=1500, end=80_000, power=0.9),
            ],
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=8000)),
        )
    )
    own = cfg.copy()
    fit_schedule(own, iterations_per_epoch=743)
    assert own.train_cfg.max_iters == 80_000 and own.default_hooks.checkpoint.interval == 743
    set_epochs(cfg, 2)
    fit_schedule(cfg, iterations_per_epoch=100)
    assert cfg.train_cfg.max_iters == 200 and cfg.train_cfg.val_interval == 200
    assert [(entry.begin, entry.end) for entry in cfg.param_scheduler] == [(0, 4), (4, 200)]
    assert cfg.default_hooks.checkpoint.interval == 100


def test_from_scratch_unfreezes_what_is_random(cfg):
    assert pretrained_files(cfg) == ['torchvision://resnet50']
    changed = from_scratch(cfg)
    assert pretrained_files(cfg) == [] and cfg.model.backbone.init_cfg is None
    assert cfg.model.backbone.frozen_stages == -1 and cfg.model.backbone.norm_eval is False
    assert "'torchvision://resnet50' is not loaded" in changed and len(changed) == 3
    assert from_scratch(cfg) == []


def test_missing_weights_are_an_error_that_says_so(cfg, tmp_path):
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match=r"the pretrained weights '.*weights.pth' cannot be had \(.*--from-scratch"):
        require_pretrained(cfg)
    import torch

    torch.save({'state_dict': {}}, tmp_path / 'weights.pth')
    require_pretrained(cfg)


def test_settings_reach_the_config():
    ablation = table('fine/table4')
    settings = Settings(dataset='bccd', epochs=3, from_scratch=True, batch_size=7, image_scale=(320, 240), amp=True,
                        cfg_options={'model.backbone.depth': 18, 'train_dataloader.num_workers': 0})  # fmt: skip
    cfg = row_config(ablation, ablation.row('heads4'), settings)
    assert cfg.train_dataloader.batch_size == 7 and cfg.train_dataloader.num_workers == 0
    assert cfg.model.backbone.depth == 18 and cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.auto_scale_lr.enable and cfg.default_hooks.checkpoint.interval == 1
    wrapped = replace(ablation.row('heads4'), set={'optim_wrapper': {'type': 'ApexOptimWrapper'}})
    with pytest.raises(ValueError, match="--amp needs optim_wrapper.type 'OptimWrapper', .* has 'ApexOptimWrapper'"):
        row_config(ablation, wrapped, Settings(amp=True))
    with pytest.raises(ValueError, match='--cfg-options: .*train_dataloader.bach_size'):
        row_config(ablation, ablation.row('heads4'), Settings(cfg_options={'train_dataloader.bach_size': 1}))


def test_a_backbones_classes_are_its_classifiers(cfg):
    cfg.model.backbone.num_classes = 1000
    swap_dataset(cfg, 'bccd')
    assert cfg.model.backbone.num_classes == 1000 and cfg.model.roi_head.bbox_head.num_classes == 3


def test_the_last_epoch_counts_and_a_kill_loses_no_checkpoint():
    """Not the best epoch's weights; and two are kept, since mmengine removes one before it writes the next."""
    ablation = table('fine/small-fcos')
    hook = row_config(ablation, ablation.row('fine')).default_hooks.checkpoint
    assert 'save_best' not in hook and hook.max_keep_ckpts == 2 and hook.save_last and hook.interval == 1

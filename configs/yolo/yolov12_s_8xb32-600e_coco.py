# YOLOv12-s on COCO by its own recipe: 600 epochs, 256 images a step, copy-paste by the objects' masks, MixUp. On a data
# set without masks copy-paste passes every image on; `with_mask` has to be False there, which `--dataset` sees to.
_base_ = [
    '../_base_/models/yolov12_s.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_yolo_500e.py',
]

affine_scale = 0.9
copy_paste = 0.15
mixup = 0.05
max_epochs = 600

load = [
    dict(type='mmscale.LoadImageFromFile', backend_args=None),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
]
mosaic, affine = _base_.yolo_mosaic
mosaic['pre_transform'] = load
affine['scaling_ratio_range'] = (1 - affine_scale, 1 + affine_scale)
mixed = [mosaic, dict(type='mmyolo.YOLOv5CopyPaste', prob=copy_paste), affine]
train_pipeline = [
    *load,
    *mixed,
    dict(type='mmyolo.YOLOv5MixUp', prob=mixup, pre_transform=[*load, *mixed]),
    dict(type='mmyolo.RemoveDataElement', keys=['gt_masks']),
    *_base_.yolo_last,
]
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    batch_sampler=None,
    dataset=dict(filter_cfg=dict(filter_empty_gt=False, min_size=32), pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline={{_base_.yolo_test_pipeline}}))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=max_epochs, dynamic_intervals=[(max_epochs - 10, 1)])
optim_wrapper = dict(optimizer=dict(batch_size_per_gpu=32))
default_hooks = dict(param_scheduler=dict(max_epochs=max_epochs, warmup_bias_lr=0.0))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_epoch'] = max_epochs - 10
custom_hooks[-1]['switch_pipeline'][-4]['scaling_ratio_range'] = (1 - affine_scale, 1 + affine_scale)

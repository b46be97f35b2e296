# The recipe of the YOLOs' larger scales: YOLOv8's, with objects pasted by their masks, MixUp and a stronger affine. The
# strengths are those of YOLOv8's and v10's m; a config with others builds the pipeline from the parts:
#     mosaic, paste, affine = mixed = _base_.paste_mosaic
#     paste['prob'] = 0.3
#     mixup = dict(_base_.paste_mixup, prob=0.15, pre_transform=[*_base_.paste_load, *mixed])
#     train_dataloader = dict(dataset=dict(pipeline=[*_base_.paste_load, *mixed, mixup, *_base_.paste_last]))
# On a data set without masks copy-paste passes every image on; `with_mask` has to be False there, which `--dataset`
# sees to.
_base_ = './schedule_yolo_500e.py'

affine_scale = 0.9
scaling = (1 - affine_scale, 1 + affine_scale)

paste_load = [
    dict(type='mmscale.LoadImageFromFile', backend_args=None),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
]
mosaic, affine = _base_.yolo_mosaic
paste_mosaic = [
    dict(mosaic, pre_transform=paste_load),
    dict(type='mmyolo.YOLOv5CopyPaste', prob=0.1),
    dict(affine, scaling_ratio_range=scaling),
]
paste_mixup = dict(type='mmyolo.YOLOv5MixUp', prob=0.1, pre_transform=[*paste_load, *paste_mosaic])
paste_last = [dict(type='mmyolo.RemoveDataElement', keys=['gt_masks']), *_base_.yolo_last]
paste_train_pipeline = [*paste_load, *paste_mosaic, paste_mixup, *paste_last]

custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_pipeline'] = [
    *_base_.yolo_load, *_base_.yolo_letterbox, dict(_base_.yolo_affine, scaling_ratio_range=scaling), *_base_.yolo_last
]

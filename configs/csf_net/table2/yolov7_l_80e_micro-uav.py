# YOLOv7 (its l) on Micro RGB UAV by CSF-Net's recipe.
_base_ = [
    '../../_base_/models/yolov7_l.py',
    '../../_base_/datasets/micro_uav.py',
    '../../_base_/schedules/schedule_csf_80e.py',
]

model = dict(
    bbox_head=dict(
        head_module=dict(num_classes={{_base_.num_classes}}),
        loss_cls=dict(loss_weight=0.3 / 80)))  # of the data set's one class

train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    batch_sampler=None,
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline={{_base_.csf_train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.yolo_test_pipeline}}))
test_dataloader = val_dataloader

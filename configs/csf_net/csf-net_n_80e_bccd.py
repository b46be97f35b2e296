# CSF-Net on BCCD by its recipe for Micro RGB UAV, with 16 images a step of the 205.
_base_ = [
    '../_base_/models/csf-net_n.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/schedule_csf_80e.py',
]

num_classes = {{_base_.num_classes}}
model = dict(
    bbox_head=dict(head_module=dict(num_classes=num_classes)), train_cfg=dict(assigner=dict(num_classes=num_classes)))

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    batch_sampler=None,
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline={{_base_.csf_train_pipeline}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.yolo_test_pipeline}}))
test_dataloader = val_dataloader

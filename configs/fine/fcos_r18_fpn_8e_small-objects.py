# What `make demo` trains: the generated small-object data set, from random weights, a few minutes on two cores.
_base_ = [
    '../_base_/models/fcos_r18_fpn_scratch.py', '../_base_/datasets/small_objects.py', '../_base_/schedules/schedule_scratch.py',
    '../_base_/default_runtime.py'
]

model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256]),
    bbox_head=dict(num_classes={{_base_.num_classes}}))

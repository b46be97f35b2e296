# SSD on small images, from random weights (no download), for two cores and minutes: tests and first experiments. A
# ResNet-18 without its last stage stands for VGG-16, which learns nothing from random weights in so short a time; the
# rest is SSD's, six maps of 24 to 1 points a side at 192x192, 770 in all.
_base_ = './ssd300.py'

ssd_input_size = 192
ssd_widths = (128, 256, 128, 128, 128, 128)

model = dict(
    data_preprocessor=dict(std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch'),
    neck=dict(
        in_channels=ssd_widths[:2],
        out_channels=ssd_widths,
        level_strides=(2, 2, 2, 1),
        level_paddings=(1, 1, 1, 0),
        last_kernel_size=2,
        l2_norm_scale=None,
        norm_cfg=dict(type='BN', requires_grad=True)),
    bbox_head=dict(
        in_channels=ssd_widths,
        # sides in parts of the image: 0.1, 0.2, and evenly from there to 0.9
        anchor_generator=dict(
            _delete_=True,
            type='SSDAnchorGenerator',
            scale_major=False,
            strides=[8, 16, 32, 64, 96, 192],
            ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            min_sizes=[19, 38, 72, 105, 139, 172],
            max_sizes=[38, 72, 105, 139, 172, 206])))

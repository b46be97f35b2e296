"""The released scales of YOLOv10 and YOLOv12, 80 classes, and how many weights they have.

The numbers are those of the released models. These count the 16 fixed numbers with which a distribution's mean is taken
as weights; here they are a buffer. Those of YOLOv12 are of the "turbo" form (grouped convolutions of stride 4 and 8).
"""

from .small import build

BINS = 16

# depth, width, the last stage's width; of the backbone the stages of CIB and whether with large kernels; of the neck
# the blocks of CIB and whether with large kernels; weights with both branches, and of the one-to-one branch alone
YOLOV10 = dict(
    n=(1 / 3, 0.25, 1024, (), False, ('bottom_up_32',), True, 2_775_520, 2_310_624),
    s=(1 / 3, 0.5, 1024, (4,), True, ('bottom_up_32',), True, 8_128_272, 7_277_920),
    m=(2 / 3, 0.75, 768, (4,), False, ('bottom_up_16', 'bottom_up_32'), False, 16_576_768, 15_389_968),
    b=(2 / 3, 1.0, 512, (4,), False, ('top_down_16', 'bottom_up_16', 'bottom_up_32'), False, 20_574_384, 19_101_696),
    l=(1.0, 1.0, 512, (4,), False, ('top_down_16', 'bottom_up_16', 'bottom_up_32'), False, 25_888_688, 24_416_000),
    x=(1.0, 1.25, 512, (3, 4), False, ('top_down_16', 'bottom_up_16', 'bottom_up_32'), False, 31_808_960, 29_539_408),
)

# depth, width, the last stage's width, whether with C3k, whether with a residual, the MLPs' ratio; weights
YOLOV12 = dict(
    n=(0.5, 0.25, 1024, False, False, 2.0, 2_553_904),
    s=(0.5, 0.5, 1024, False, False, 2.0, 9_127_424),
    m=(0.5, 1.0, 512, True, False, 2.0, 19_670_784),
    l=(1.0, 1.0, 512, True, True, 1.5, 26_506_496),
    x=(1.0, 1.5, 512, True, True, 1.5, 59_414_176),
)


def yolov10(scale, **changes):
    """Backbone, neck and head module."""
    depth, width, last, stages, large, blocks, large_in_neck, *_ = YOLOV10[scale]
    factors = dict(deepen_factor=depth, widen_factor=width)
    widths = [256, 512, last]
    cib = dict(cib_stages=stages, large_kernel=large)
    backbone = build('YOLOv10Backbone', last_stage_out_channels=last, **cib, **factors, **changes)
    io = dict(in_channels=widths, out_channels=widths)
    neck = build('YOLOv10PAFPN', cib=blocks, large_kernel=large_in_neck, **io, **factors, **changes)
    return backbone, neck, build('YOLOv10HeadModule', num_classes=80, in_channels=widths, widen_factor=width, **changes)


def yolov12(scale, **changes):
    """Backbone, neck and head module."""
    depth, width, last, c3k, residual, ratio, *_ = YOLOV12[scale]
    factors = dict(deepen_factor=depth, widen_factor=width)
    late = dict(c3k=c3k, residual=residual, mlp_ratio=ratio)
    widths = [256, 512, last]
    backbone = build('YOLOv12Backbone', last_stage_out_channels=last, **late, **factors, **changes)
    neck = build('YOLOv12PAFPN', in_channels=[512, 512, last], out_channels=widths, **factors, **changes)
    module = dict(num_classes=80, in_channels=widths, widen_factor=width)
    return backbone, neck, build('LightYOLOHeadModule', **module, **changes)

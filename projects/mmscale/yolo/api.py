"""The one place where MMScale imports MMYOLO, which is optional and under the GPL.

What the project builds on of it stands here by name; :mod:`mmscale.fine.yolo_necks` and :mod:`mmscale.csf_net` take it
from here. A program that runs with these classes is a work with GPL parts: see the README.
"""

from mmscale.compat import import_mmyolo

import_mmyolo()

from mmyolo.models import (  # noqa: E402
    YOLOv5Head,
    YOLOv5PAFPN,
    YOLOv6RepBiPAFPN,
    YOLOv6RepPAFPN,
    YOLOv8CSPDarknet,
    YOLOv8Head,
    YOLOv8HeadModule,
    YOLOv8PAFPN,
)
from mmyolo.models.backbones import BaseBackbone  # noqa: E402
from mmyolo.models.necks import BaseYOLONeck  # noqa: E402
from mmyolo.models.utils import make_divisible, make_round  # noqa: E402
from mmyolo.registry import TASK_UTILS  # noqa: E402

import mmscale.compat_mmyolo  # noqa: E402, F401

__all__ = [
    'TASK_UTILS',
    'BaseBackbone',
    'BaseYOLONeck',
    'YOLOv5Head',
    'YOLOv5PAFPN',
    'YOLOv6RepBiPAFPN',
    'YOLOv6RepPAFPN',
    'YOLOv8CSPDarknet',
    'YOLOv8Head',
    'YOLOv8HeadModule',
    'YOLOv8PAFPN',
    'make_divisible',
    'make_round',
]

"""MMScale's registries: children of MMEngine's roots with the scope ``mmscale``.

A config names a component with its scope, ``type='mmscale.FINEFPN'``, and finds it from the registries of MMDetection,
MMYOLO, MMSegmentation or a project of your own alike. ``locations`` lists the modules that a registry imports when it
is first asked for something, so importing ``mmscale`` stays cheap.
"""

from importlib.util import find_spec

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

__all__ = ['DATASETS', 'DATA_SAMPLERS', 'HOOKS', 'METRICS', 'MODELS', 'OPTIM_WRAPPER_CONSTRUCTORS', 'TRANSFORMS']

# What builds on MMYOLO, which is optional: the modules, and the names that they register.
WITH_MMYOLO = {
    'mmscale.yolo.backbones': ('YOLOv10Backbone', 'YOLOv12Backbone'),
    'mmscale.yolo.necks': ('YOLOv10PAFPN', 'YOLOv12PAFPN'),
    'mmscale.yolo.heads': (
        'LightYOLOHeadModule',
        'SizeAwareYOLOv10Head',
        'SizeAwareYOLOv8Head',
        'YOLOv10Head',
        'YOLOv10HeadModule',
    ),
    'mmscale.fine.yolo_necks': (
        'FINEYOLOv10PAFPN',
        'FINEYOLOv12PAFPN',
        'FINEYOLOv5PAFPN',
        'FINEYOLOv6RepBiPAFPN',
        'FINEYOLOv6RepPAFPN',
        'FINEYOLOv8PAFPN',
    ),
    'mmscale.csf_net.backbone': ('CSFBackbone',),
    'mmscale.csf_net.neck': ('CSFPAFPN',),
}
HAS_MMYOLO = find_spec('mmyolo') is not None

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmscale',
    locations=[
        'mmscale.fine',
        'mmscale.cfsam',
        'mmscale.hsd_detr',
        'mmscale.hmpe',
        'mmscale.csf_net',
        'mmscale.rivals',
        'mmscale.rtdetr',
        'mmscale.rtdetr.batch_augment',
        *(WITH_MMYOLO if HAS_MMYOLO else ()),
    ],
)
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmscale', locations=['mmscale.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmscale', locations=['mmscale.datasets'])
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmscale',
    locations=['mmscale.datasets', 'mmscale.rtdetr.random_crop'],
)
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope='mmscale', locations=['mmscale.evaluation'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmscale', locations=['mmscale.engine.hooks'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmscale',
    locations=['mmscale.engine.optim', 'mmscale.yolo.optim'],
)


def _require_mmyolo(*args, **kwargs) -> None:
    from .compat import import_mmyolo

    import_mmyolo()  # raises where it is absent


def _stand_in(name: str) -> type:
    """What takes a component's name where MMYOLO is absent, and says so when it is built."""
    return type(name, (), {'__init__': _require_mmyolo, '__doc__': f'{name} needs MMYOLO, which is not installed.'})


class _Absent(Registry):
    """What takes the place of MMYOLO's registries, for configs that name its parts."""

    get = _require_mmyolo


if not HAS_MMYOLO:
    for _names in WITH_MMYOLO.values():
        for _name in _names:
            MODELS.register_module(name=_name, module=_stand_in(_name))
    for _root in (MMENGINE_MODELS, MMENGINE_DATASETS, MMENGINE_TRANSFORMS, MMENGINE_HOOKS):
        if 'mmyolo' not in _root.children:
            _Absent(_root.name, parent=_root, scope='mmyolo')

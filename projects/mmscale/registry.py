"""MMScale's registries: children of MMEngine's roots with the scope ``mmscale``.

A config names a component with its scope, ``type='mmscale.FINEFPN'``, and finds it from the registries of MMDetection,
MMYOLO, MMSegmentation or a project of your own alike. ``locations`` lists the modules that a registry imports when it
is first asked for something, so importing ``mmscale`` stays cheap.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

__all__ = ['DATASETS', 'DATA_SAMPLERS', 'HOOKS', 'METRICS', 'MODELS', 'OPTIM_WRAPPER_CONSTRUCTORS', 'TRANSFORMS']

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmscale',
    locations=[
        'mmscale.fine',
        'mmscale.cfsam',
        'mmscale.hsd_detr',
        'mmscale.hmpe',
        'mmscale.rivals',
        'mmscale.rtdetr',
        'mmscale.rtdetr.batch_augment',
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
    locations=['mmscale.engine.optim'],
)

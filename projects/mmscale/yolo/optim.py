"""The YOLOs' optimizer groups: weights that decay, norms that do not, biases that warm up on their own.

MMYOLO's ``YOLOv5OptimizerConstructor`` looks for parameters called ``weight`` and ``bias`` and leaves all others out:
the gamma of YOLOv12's R-ELAN, and the projections of PyTorch's attention in a part of yours, would never be trained.
This one leaves none out. It needs no MMYOLO.
"""

from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mmscale.engine.kinds import parameter_kind
from mmscale.registry import OPTIM_WRAPPER_CONSTRUCTORS

__all__ = ['YOLOOptimWrapperConstructor']


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class YOLOOptimWrapperConstructor:
    """Three groups, in the order that MMYOLO's ``YOLOv5ParamSchedulerHook`` expects.

    1. Weights, with weight decay.
    2. Weights of norms, and what a module names in its attribute ``no_weight_decay``, without.
    3. Biases, those of norms among them, without. The hook warms them up from ``warmup_bias_lr``.

    As in the YOLOs, weight decay is for 64 images a step and grows with a larger batch; a smaller one is taken for one
    whose gradients are accumulated to about 64, which MMYOLO does not do either.

    Args:
        optim_wrapper_cfg (dict): MMEngine's, with an ``optimizer``; that may name its ``batch_size_per_gpu``, without
            which weight decay is not scaled.
        paramwise_cfg (dict, optional): ``base_total_batch_size``. Defaults to None: 64.

    Raises:
        ValueError: If there is no optimizer, or ``paramwise_cfg`` holds anything else.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if 'optimizer' not in optim_wrapper_cfg:
            raise ValueError("optim_wrapper has no 'optimizer'")
        paramwise_cfg = dict(paramwise_cfg or {})
        self.base_total_batch_size = paramwise_cfg.pop('base_total_batch_size', 64)
        if paramwise_cfg:
            raise ValueError(
                f'paramwise_cfg has no option {next(iter(paramwise_cfg))!r}; its option is base_total_batch_size'
            )
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.optim_wrapper_cfg.pop('optimizer'))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The optimizer of a model's trained parameters in its wrapper."""
        model = model.module if is_model_wrapper(model) else model
        options = dict(self.optimizer_cfg)
        decay = options.pop('weight_decay', 0.0) * self._decay_scale(options.pop('batch_size_per_gpu', None))
        groups = [dict(params=[], weight_decay=decay), *(dict(params=[], weight_decay=0.0) for _ in range(2))]
        seen = set()
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    groups[_group(module, name)]['params'].append(parameter)
        for kind, group in zip(('weights', 'norms', 'biases'), groups, strict=True):
            count = sum(parameter.numel() for parameter in group['params'])
            print_log(f'Optimizer group: {count:,} values of {kind}', 'current')
        optimizer = OPTIMIZERS.build({**options, 'params': groups})
        return OPTIM_WRAPPERS.build(self.optim_wrapper_cfg, default_args=dict(optimizer=optimizer))

    def _decay_scale(self, batch_size: int | None) -> float:
        if batch_size is None:
            return 1.0
        total = get_world_size() * batch_size
        return total * max(round(self.base_total_batch_size / total), 1) / self.base_total_batch_size


def _group(owner: nn.Module, name: str) -> int:
    kind = parameter_kind(owner, name)
    if kind == 'norm':
        return 2 if name == 'bias' else 1
    return dict(weight=0, kept=1, bias=2)[kind]

"""Optimizers whose rules add up: one for a part of the model, another for a kind of parameter.

MMEngine's constructor drops all other rules for a parameter that a custom key matches: with a lower learning rate for
the backbone, the backbone's norms and biases decay although ``norm_decay_mult=0`` says that norms do not.
"""

import math
from collections.abc import Iterator

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS
from .kinds import parameter_kind

__all__ = ['AdditiveOptimWrapperConstructor']

KEYS = ('custom_keys', 'norm_decay_mult', 'bias_decay_mult')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class AdditiveOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Learning rate by the parameter's name, weight decay by its kind, unless its name says both.

    Ours beside that: parameters with the same settings share a group, which PyTorch updates at once (MMEngine makes a
    group, and several kernels, for each parameter); and the log names the groups in a line each.

    Args:
        optim_wrapper_cfg (dict): As MMEngine's.
        paramwise_cfg (dict, optional): May hold

            - ``custom_keys`` (dict): By a part of the parameter's name, the longest that matches: ``lr_mult``,
              ``decay_mult`` (which then stands over the two below) and other options of the group.
            - ``norm_decay_mult`` (float): For weights and biases of batch, instance, group, layer and RMS norm.
              Defaults to 1.
            - ``bias_decay_mult`` (float): For parameters called ``bias`` or ``..._bias`` (as ``in_proj_bias`` of
              PyTorch's attention). Defaults to 1.

            What a module names in its attribute ``no_weight_decay`` never decays, unless a custom key says so.

    Raises:
        ValueError: If ``paramwise_cfg`` holds anything else, a custom key matches no parameter, or a multiplier has
            nothing to multiply.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        if unknown := [key for key in self.paramwise_cfg if key not in KEYS]:
            raise ValueError(f'paramwise_cfg has no option {unknown[0]!r}; its options are {", ".join(KEYS)}')
        rules = list(self.paramwise_cfg.get('custom_keys', {}).values())
        if self.base_lr is None and any('lr_mult' in rule for rule in rules):
            raise ValueError("paramwise_cfg has an 'lr_mult', but the optimizer has no 'lr' to multiply")

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Append the groups of a model's trained parameters.

        Args:
            params (list[dict]): The optimizer's groups; appended to.
            module (nn.Module): The model.
            **kwargs: MMEngine's, for the children of a module; not used, since a model is done at once.
        """
        names = [name for name, _ in module.named_parameters()]
        for key in self.paramwise_cfg.get('custom_keys', {}):
            if not any(key in name for name in names):
                raise ValueError(f'paramwise_cfg.custom_keys has {key!r}, which is in the name of no parameter')
        groups = {}
        for name, parameter, owner in _trained(module):
            options = self._options(self._custom_key(name), name, owner)
            group = groups.setdefault(tuple(sorted(options.items())), dict(options, params=[]))
            group['params'].append(parameter)
        params += groups.values()
        for group in groups.values():
            count = sum(math.prod(parameter.shape) for parameter in group['params'])
            settings = {name: value for name, value in group.items() if name != 'params'}
            print_log(f'Optimizer group: {count:,} values in {len(group["params"])} tensors, {settings}', 'current')

    def _custom_key(self, name: str) -> str | None:
        """The longest custom key in a parameter's name, of equals the first of the alphabet, as MMEngine."""
        found = [key for key in self.paramwise_cfg.get('custom_keys', {}) if key in name]
        return min(found, key=lambda key: (-len(key), key), default=None)

    def _options(self, key: str | None, name: str, owner: nn.Module) -> dict:
        """Settings of one parameter of the module ``owner``."""
        rule = dict(self.paramwise_cfg['custom_keys'][key]) if key is not None else {}
        options = {} if self.base_lr is None else dict(lr=self.base_lr * rule.pop('lr_mult', 1))
        if self.base_wd is not None:
            kind = parameter_kind(owner, name.rpartition('.')[2])
            decay = dict(
                norm=self.paramwise_cfg.get('norm_decay_mult', 1),
                bias=self.paramwise_cfg.get('bias_decay_mult', 1),
                kept=0,
                weight=1,
            )[kind]
            options['weight_decay'] = float(self.base_wd * rule.pop('decay_mult', decay))
        return {**options, **rule}


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Every trained parameter once, with its name and the module that it belongs to."""
    seen = set()
    for prefix, owner in model.named_modules():
        for leaf, parameter in owner.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield leaf, parameter, owner

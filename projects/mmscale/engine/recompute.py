"""Layers that forget their activations and compute them again in the backward pass (``activation_checkpointing``)."""
import functools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ['turn_on_activation_checkpointing']


def turn_on_activation_checkpointing(model: nn.Module, modules: str | Sequence[str]) -> None:
    """Have modules of a model recompute their activations; takes the place of mmengine's function of this name.

    Losses, gradients and the norms' running statistics are those of training without it. Of other buffers that a
    module changes in its forward pass nothing is known here: they change once more in the backward pass.

    Args:
        model (nn.Module): Changed in place.
        modules (str | Sequence[str]): Dotted names of its modules, for instance ``['backbone', 'neck']``.

    Raises:
        ValueError: If the model has no such module.
    """
    for name in [modules] if isinstance(modules, str) else modules:
        try:
            module = model.get_submodule(name)
        except AttributeError as error:
            raise ValueError(f"activation_checkpointing: there is no module '{name}' in the model ({error})") from error
        # A partial, not a closure: a copy of the model (an average of weights) then runs its own modules.
        forward = module.forward
        module.forward = functools.update_wrapper(functools.partial(_run, module, forward), forward)


def _run(module: nn.Module, forward: Any, *args, **kwargs) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    contexts = nullcontext(), _StatisticsKept(module)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=lambda: contexts, **kwargs)


class _StatisticsKept:
    """While a module computes once more, its norms count nothing. They compute as before, and save as many tensors."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.before: list[tuple[nn.Module, dict[str, Any]]] = []

    def __enter__(self) -> None:
        for norm in self.module.modules():
            if getattr(norm, 'running_mean', None) is not None and hasattr(norm, 'momentum'):
                still = dict(momentum=0.0, num_batches_tracked=None)
                before = {name: getattr(norm, name) for name in still if hasattr(norm, name)}
                self.before.append((norm, before))
                for name in before:
                    setattr(norm, name, still[name])

    def __exit__(self, *error) -> None:
        while self.before:
            norm, before = self.before.pop()
            for name, value in before.items():
                setattr(norm, name, value)

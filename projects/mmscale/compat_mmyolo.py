"""What :func:`mmscale.compat.compute_yolos_losses_in_float32` mends, once MMYOLO's models are there."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from mmyolo.models import dense_heads
from torch import Tensor

LOW = (torch.float16, torch.bfloat16)


def in_float32(function: Callable) -> Callable:
    """A head's method which gets its maps in float32, and computes in it."""

    @functools.wraps(function)
    def run(self, *args, **kwargs):
        device = next((x.device.type for x in _tensors([*args, *kwargs.values()]) if x.dtype in LOW), None)
        if device is None:
            return function(self, *args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(self, *_raised(args), **_raised(kwargs))

    return run


def _tensors(node: Any) -> list[Tensor]:
    if isinstance(node, Tensor):
        return [node]
    return [x for item in node for x in _tensors(item)] if isinstance(node, (list, tuple)) else []


def _raised(node: Any) -> Any:
    """Tensors of half precision within lists, tuples and dictionaries in float32; all else as it is."""
    if isinstance(node, Tensor):
        return node.float() if node.dtype in LOW else node
    if type(node) in (list, tuple):
        return type(node)(_raised(item) for item in node)
    return {key: _raised(value) for key, value in node.items()} if type(node) is dict else node


for name in dense_heads.__all__:
    head = getattr(dense_heads, name)
    for method in ('loss_by_feat', 'predict_by_feat'):
        if method in vars(head):
            setattr(head, method, in_float32(vars(head)[method]))

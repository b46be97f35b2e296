"""Single precision for what half is too coarse for."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ['full_precision']


def full_precision(x: Tensor) -> AbstractContextManager:
    """Within it, autocast leaves operators on the tensor's device alone.

    Args:
        x (Tensor): A tensor; on the meta device, which autocast does not know, nothing has to be done.

    Example:
        >>> x = torch.rand(2, 2)
        >>> with torch.autocast('cpu'), full_precision(x):
        ...     (x @ x).dtype
        torch.float32
    """
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)

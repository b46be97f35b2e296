"""PyTorch's own initialisation, where a paper's code relies on it."""

from torch import nn

__all__ = ['init_as_torch']


def init_as_torch(module: nn.Module) -> None:
    """Draw every weight below ``module`` anew as PyTorch's layers do when they are made.

    MMCV's ``ConvModule`` draws its convolutions from another distribution (Kaiming normal, fan out) than PyTorch
    (Kaiming uniform, a = sqrt(5)); DETR-like detectors are known to end at other APs for it.

    Args:
        module (nn.Module): Layers with ``reset_parameters`` (or ``nn.MultiheadAttention``'s ``_reset_parameters``) are
            reset, from the inside out, so that the rule of a layer stands over those of its parts.
    """
    for layer in reversed(list(module.modules())):
        reset = getattr(layer, 'reset_parameters', None) or getattr(layer, '_reset_parameters', None)
        if callable(reset):
            reset()

"""CSwitch, CSF-Net's channel switch: one convolution whose output channels are dealt out to several receivers.

Paper: "CSF-Net: Cross-Stage Fusion Network with Dual Backbone for Small Object Detection" (Wang et al.), section 3.1.
YOLOv9 has the same idea as CBLinear.

    x (C) -- conv --> sum(quotas) channels -- split --> quotas[0], quotas[1], ...
"""

from collections.abc import Sequence

from torch import Tensor, nn

from mmscale.options import are_whole_numbers, is_whole_number
from mmscale.registry import MODELS

__all__ = ['CSwitch']


@MODELS.register_module()
class CSwitch(nn.Module):
    """One convolution to the sum of the quotas, split into them.

    It equals a convolution for each quota with the weights' slices; one call serves them all.

    Args:
        in_channels (int): C.
        quotas (Sequence[int]): Channels of every branch, the paper's partition list.
        kernel (int): Side of the kernel, odd. The paper's formula, where it stood, is lost. Defaults to 1; see
            :class:`~mmscale.csf_net.backbone.CSFBackbone` for the network's.

    Raises:
        ValueError: If a quota is not positive, there is none, or the kernel is even.

    Example:
        >>> import torch
        >>> [tuple(branch.shape) for branch in CSwitch(256, [64, 128, 256])(torch.rand(1, 256, 20, 20))]
        [(1, 64, 20, 20), (1, 128, 20, 20), (1, 256, 20, 20)]
    """

    def __init__(self, in_channels: int, quotas: Sequence[int], kernel: int = 1) -> None:
        super().__init__()
        if not are_whole_numbers(quotas) or not quotas:
            raise ValueError(f'quotas={quotas!r} of CSwitch should be a list of positive whole numbers')
        if not is_whole_number(kernel) or kernel % 2 == 0:
            raise ValueError(f'kernel={kernel!r} of CSwitch should be an odd number from 1')
        self.quotas = list(quotas)
        self.conv = nn.Conv2d(in_channels, sum(quotas), kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Deal out.

        Args:
            x (Tensor): ``(B, C, H, W)``.

        Returns:
            tuple[Tensor]: ``(B, quotas[i], H, W)`` each.
        """
        return self.conv(x).split(self.quotas, dim=1)

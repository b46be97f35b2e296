"""Multi-scale deformable attention, as RT-DETR's decoder uses it.

Papers: "Deformable DETR" (Zhu et al., ICLR 2021), eq. 3; RT-DETR's points lie around a box, so that an offset of one is
half the box's side over the number of points.

MMCV's module holds the weights and their start. Ours: its forward works on shapes known to Python, so that nothing is
read back from the device and an exported graph keeps the sizes open, and its CPU form samples without the checks and
copies of MMCV's; on GPUs MMCV's CUDA kernel serves.

Shape shorthand in this module:
    B: batch, Q: queries, C: channels, M: heads, L: levels, P: points of a level, S: positions of all levels
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.ops import MultiScaleDeformableAttention as MMCVDeformableAttention
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from torch import Tensor

__all__ = ['MultiScaleDeformableAttention', 'sample_levels']


class MultiScaleDeformableAttention(MMCVDeformableAttention):
    """Attention of every query to P points of every level around its reference box.

    Args:
        embed_dims (int): C. Defaults to 256.
        num_heads (int): M. Defaults to 8.
        num_levels (int): L. Defaults to 3.
        num_points (int): P. Defaults to 4.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``.

    Example:
        >>> import torch
        >>> attention = MultiScaleDeformableAttention(embed_dims=16, num_heads=2, num_levels=2)
        >>> query, boxes, memory = torch.rand(1, 5, 16), torch.rand(1, 5, 4), torch.rand(1, 20, 16)
        >>> attention(query, boxes, memory, [(4, 4), (2, 2)]).shape
        torch.Size([1, 5, 16])
    """

    def __init__(self, embed_dims: int = 256, num_heads: int = 8, num_levels: int = 3, num_points: int = 4) -> None:
        super().__init__(embed_dims, num_heads, num_levels, num_points, dropout=0.0, batch_first=True)

    def forward(self, query: Tensor, references: Tensor, memory: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Attend.

        Args:
            query (Tensor): ``(B, Q, C)``.
            references (Tensor): ``(B, Q, 4)``, boxes (cx, cy, w, h) over the size of the image.
            memory (Tensor): ``(B, S, C)``, the levels' positions one after the other, row by row.
            shapes (Sequence[tuple[int, int]]): Height and width of every level.

        Returns:
            Tensor: ``(B, Q, C)``.
        """
        value = self.value_proj(memory).unflatten(-1, (self.num_heads, -1))
        offsets = self.sampling_offsets(query).unflatten(-1, (self.num_heads, self.num_levels, self.num_points, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)
        centers, sizes = references[:, :, None, None, None].split(2, dim=-1)  # (B, Q, 1, 1, 1, 2)
        locations = centers + offsets * sizes * (0.5 / self.num_points)
        if value.is_cuda and not torch.jit.is_tracing():
            attended = self._attend_by_kernel(value, shapes, locations, weights)
        else:
            attended = sample_levels(value, shapes, locations, weights)
        return self.output_proj(attended)

    def _attend_by_kernel(self, value: Tensor, shapes: Sequence, locations: Tensor, weights: Tensor) -> Tensor:
        """MMCV's CUDA kernel, in single precision."""
        sizes = torch.tensor(shapes, device=value.device)
        starts = torch.cat((sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]))
        weights = weights.unflatten(-1, (self.num_levels, self.num_points))
        arguments = (value.float().contiguous(), sizes, starts, locations.float().contiguous())
        attended = MultiScaleDeformableAttnFunction.apply(*arguments, weights.float().contiguous(), self.im2col_step)
        return attended.to(value.dtype)


def sample_levels(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples, zero outside of the maps.

    Args:
        value (Tensor): ``(B, S, M, C / M)``.
        shapes (Sequence[tuple[int, int]]): Height and width of every level.
        locations (Tensor): ``(B, Q, M, L, P, 2)``, x and y over the size of the image.
        weights (Tensor): ``(B, Q, M, L * P)``.

    Returns:
        Tensor: ``(B, Q, C)``.
    """
    batch, queries, heads = locations.shape[:3]
    grid = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, B * M, Q, P, 2)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B * M, C / M, S)
    sampled = [
        F.grid_sample(part.view(*part.shape[:2], *shape).to(grid.dtype), points, align_corners=False)
        for part, shape, points in zip(maps.split([h * w for h, w in shapes], dim=-1), shapes, grid, strict=True)
    ]  # (B * M, C / M, Q, P) each
    weights = weights.to(grid.dtype).transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    attended = (torch.cat(sampled, dim=-1) * weights).sum(-1)  # (B * M, C / M, Q)
    return attended.view(batch, -1, queries).transpose(1, 2).to(value.dtype)

"""A neck that treats every map alone, each through a block of its own."""

from collections.abc import Callable, Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers.levels import check_widths, checked_levels

__all__ = ['PerLevelNeck']


class PerLevelNeck(BaseModule):
    """One block per level, any number of levels of any widths and sizes. A child says which block.

    Args:
        in_channels (Sequence[int]): Width of every map.
        block (Callable[[int], nn.Module]): Makes the block of a map of so many channels, which keeps its shape.
        levels (Sequence[int], optional): Indices of the maps that take part, in ascending order; the others are passed
            on as they are. Defaults to None, all.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None.

    Raises:
        ValueError: If ``levels`` does not fit ``in_channels``, or the maps of ``forward`` do not.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        block: Callable[[int], nn.Module],
        levels: Sequence[int] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = list(in_channels)
        self.levels = checked_levels(type(self).__name__, levels, len(self.in_channels))
        self.blocks = nn.ModuleList(block(self.in_channels[level]) for level in self.levels)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Every map through its block.

        Args:
            inputs (Sequence[Tensor]): One map per entry of ``in_channels``, ``(B, in_channels[i], H_i, W_i)``.

        Returns:
            tuple[Tensor]: As many maps of the same shapes.

        Raises:
            ValueError: If the number of maps or a map's width is not what the neck was built for.
        """
        check_widths(type(self).__name__, inputs, self.in_channels)
        outs = list(inputs)
        for level, block in zip(self.levels, self.blocks, strict=True):
            outs[level] = block(inputs[level])
        return tuple(outs)

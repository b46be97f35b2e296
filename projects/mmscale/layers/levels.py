"""What necks over any number of maps check alike: which maps take part, and whether the right ones came."""

from collections.abc import Sequence

from torch import Tensor

__all__ = ['check_widths', 'checked_levels']


def checked_levels(owner: str, levels: Sequence[int] | None, count: int) -> list[int]:
    """The indices of the maps that take part.

    Args:
        owner (str): Name of the module that is told about, in its errors.
        levels (Sequence[int], optional): Its argument of this name; None for all maps.
        count (int): Maps that there are, the length of its ``in_channels``.

    Returns:
        list[int]: Ascending indices.

    Raises:
        ValueError: If there is no map, none is left, one does not exist, or they are not in ascending order.

    Example:
        >>> checked_levels('SENeck', None, 3), checked_levels('SENeck', (0, 2), 3)
        ([0, 1, 2], [0, 2])
    """
    if not count:
        raise ValueError(f'in_channels=[] of {owner} names no map')
    if levels is None:
        return list(range(count))
    levels = list(levels)
    if not levels:
        raise ValueError(f'levels=[] of {owner} leaves no map of {count}; leave the module out instead')
    for level in levels:
        if not 0 <= level < count:
            raise ValueError(
                f'levels={levels} of {owner} names level {level}, but in_channels has the levels 0 to {count - 1}'
            )
    if sorted(set(levels)) != levels:
        raise ValueError(f'levels={levels} of {owner} should be ascending, each level once')
    return levels


def check_widths(owner: str, maps: Sequence[Tensor], in_channels: Sequence[int]) -> None:
    """Refuse maps of another number or of other widths than a module was built for.

    Args:
        owner (str): Name of the module, for the error.
        maps (Sequence[Tensor]): ``(B, Ci, Hi, Wi)`` each.
        in_channels (Sequence[int]): Ci of every map.

    Raises:
        ValueError: If they differ.
    """
    widths = [x.shape[1] for x in maps]
    if widths != list(in_channels):
        raise ValueError(f'{owner} got maps with {widths} channels, but in_channels={list(in_channels)}')

"""Where FINE stands in a neck that fuses from top to bottom: which levels it aligns, with which kernels.

Paper: "Context-Guided Semantic Alignment for Feature Fusion Networks", sections 5.3 and C. The paper gives k for the
two upper fusions only, and its cost leaves no third module: a stride-4 level is fused plainly.
"""

from collections.abc import Mapping, Sequence

from mmengine.model import ModuleDict
from torch import nn

from mmscale.options import are_whole_numbers, check_options
from mmscale.registry import MODELS

__all__ = ['aligning_modules']


def aligning_modules(
    neck: nn.Module,
    fine: dict | None = None,
    fine_levels: Sequence[int] | None = None,
    fine_kernels: Sequence[int] | None = None,
    widths: Mapping[int, int] | None = None,
) -> ModuleDict:
    """The aligning modules of a neck, by the level that each aligns.

    Args:
        neck (nn.Module): A neck with ``out_channels``, ``fusions`` (the low level of every fusion, finest first) and
            ``_check_fusions``: :class:`~mmscale.layers.TopDownFPN`, :class:`~mmscale.rtdetr.HybridEncoder` or
            :class:`~mmscale.fine.yolo_necks.FINEYOLOMixin`.
        fine (dict, optional): Options of :class:`~mmscale.fine.FINE` for all modules, or another aligning module by
            ``type``; it is built with ``channels`` and ``kernel`` and called with ``(low, high)``. Defaults to None,
            the paper's settings.
        fine_levels (Sequence[int], optional): The low levels to align. Defaults to the two below the top, the paper's.
        fine_kernels (Sequence[int], optional): k of each level in ``fine_levels``. Defaults to 1 below the top, doubled
            with every level further down (the paper's 1 and 2; the doubling beyond is our choice, it keeps the token
            grid).
        widths (Mapping[int, int], optional): Channels of every low level of a neck whose levels differ. Defaults to
            None: ``out_channels`` of the neck.

    Returns:
        ModuleDict: MMEngine's, which passes ``init_weights`` on. The keys are the levels' places as text.

    Raises:
        ValueError: If a level does not exist, lists are none or differ in length, or an option is unknown.
    """
    for name, numbers in (('fine_levels', fine_levels), ('fine_kernels', fine_kernels)):
        if numbers is not None and not are_whole_numbers(numbers, least=None):
            raise ValueError(f'{name}={numbers!r} should be a list of whole numbers')
    if fine is not None and not isinstance(fine, dict):
        raise ValueError(f'fine={fine!r} should be a dict of options')
    if fine_levels is None:
        fine_levels = neck.fusions[-2:]
    neck._check_fusions('fine_levels', fine_levels)
    if fine_kernels is None:
        fine_kernels = [2 ** (neck.fusions[-1] - level) for level in fine_levels]
    if len(fine_kernels) != len(fine_levels) or len(set(fine_levels)) != len(fine_levels):
        raise ValueError(
            f'fine_kernels={list(fine_kernels)} must name one kernel for each of the distinct '
            f'fine_levels={list(fine_levels)}'
        )
    return ModuleDict(
        {
            str(level): _build_align(fine, neck.out_channels if widths is None else widths[level], kernel)
            for level, kernel in zip(fine_levels, fine_kernels, strict=True)
        }
    )


def _build_align(options: dict | None, channels: int, kernel: int) -> nn.Module:
    """An aligning module of ``channels`` and ``kernel`` from the config's options."""
    options = {'type': 'mmscale.FINE', **(options or {})}
    if options.get('channels', channels) != channels:
        raise ValueError(f'fine.channels={options["channels"]} does not match out_channels={channels} of the neck')
    if 'kernel' in options:
        raise ValueError(
            f'fine.kernel={options["kernel"]} is set per level: use fine_kernels, one kernel per fine_level'
        )
    module_type = options['type']
    cls = MODELS.get(module_type) if isinstance(module_type, str) else module_type
    if cls is not None:
        check_options('fine', cls, options, reserved=('channels', 'kernel'))
    return MODELS.build({**options, 'channels': channels, 'kernel': kernel})

"""ERFs as tables: layer by layer (fig. 10), or low tokens beside high tokens (fig. 6)."""

from collections.abc import Sequence
from statistics import stdev

from mmscale.files import markdown_table

from .erf import LayerERF, stage_ratios

__all__ = ['erf_table', 'pair_table']


def erf_table(results: Sequence[LayerERF]) -> str:
    """A Markdown table: size, spread over images, and the ratio to the layer before.

    Args:
        results (Sequence[LayerERF]): As :func:`measure_erf` returns them.
    """
    rows = [['layer', 'stride', 'sigma (px)', 'sd', 'sigma / stride', 'ratio', 'stride ratio', 'near the border']]
    ratios = [None, *stage_ratios(results)]
    for index, (result, ratio) in enumerate(zip(results, ratios, strict=True)):
        rows.append(
            [
                result.layer,
                f'{result.stride:.4g}',
                f'{result.sigma:.2f}' + (' (cut)' if result.cut else ''),
                f'{stdev(result.sigmas):.2f}' if len(result.sigmas) > 1 else '',
                f'{result.sigma / result.stride:.2f}',
                '' if ratio is None else f'{ratio:.2f}',
                '' if ratio is None else f'{result.stride / results[index - 1].stride:.2f}',
                f'{result.edge:.1%}',
            ]
        )
    return markdown_table(rows, right=range(1, 8))


def pair_table(ratios: Sequence[int], lows: Sequence[LayerERF], high: LayerERF) -> str:
    """A Markdown table of fig. 6: the sizes of low and high tokens for every r."""
    rows = [['r', 'low tokens', 'sigma (px)', 'high tokens', 'sigma (px)', 'low / high']]
    for ratio, low in zip(ratios, lows, strict=True):
        sizes = [f'{result.sigma:.2f}' + (' (cut)' if result.cut else '') for result in (low, high)]
        rows.append([str(ratio), low.layer, sizes[0], high.layer, sizes[1], f'{low.sigma / high.sigma:.2f}'])
    return markdown_table(rows, right=(0, 2, 4, 5))

"""ERFs as pictures: one per layer (fig. 10's layers), or low tokens over high tokens (fig. 6)."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from matplotlib.patches import Circle, Rectangle

from .erf import LayerERF, erf_size
from .pictures import colour, grid, save_figure

__all__ = ['draw_erf', 'heat_of']


def heat_of(influence: np.ndarray) -> np.ndarray:
    """An influence map to look at: by the 99.5th percentile of what is not zero, then the square root.

    Gradients of a real network have a few far larger pixels, which would leave the rest black. Our choice; sigma is
    measured on the map itself.
    """
    top = np.percentile(influence[influence > 0], 99.5)
    return np.sqrt(np.clip(influence / top, 0, 1))


def window_of(results: Sequence[LayerERF]) -> tuple[float, float, float, float]:
    """The part of the input that shows all ERFs: a square around the position, at least 8 times the largest sigma wide.

    It is wider where an ERF lies apart, as that of a coarse cell does whose corner is the position.

    It is the same for all layers of a figure, so that sizes can be compared, and moved to lie inside the input.

    Args:
        results (Sequence[LayerERF]): ERFs on inputs of one size.

    Returns:
        tuple[float, float, float, float]: Left, top, right, bottom, in pixels.
    """
    height, width = results[0].heat.shape
    reach = 4 * max(result.sigma for result in results)
    for result in results:
        _, centre = erf_size(result.heat)
        apart = max(abs(place + 0.5 - anchor) for place, anchor in zip(centre, result.anchor, strict=True))
        reach = max(reach, apart + 3 * result.sigma)
    side, spans = 2 * reach, []
    for anchor, length in zip(results[0].anchor, (width, height), strict=True):
        start = min(max(anchor - side / 2, 0), max(length - side, 0))
        spans.append((start, min(start + side, length)))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def draw_erf(path: str | PathLike, rows: Sequence[Sequence[LayerERF]], titles: Sequence[Sequence[str]]) -> None:
    """Draw ERFs; the brighter, the stronger the influence.

    The cyan X is the position asked for, the cyan box the token's cell, the dashed circle has the radius 2 sigma.

    Args:
        path (str | PathLike): The picture's file.
        rows (Sequence[Sequence[LayerERF]]): ERFs by row and column, as many in every row.
        titles (Sequence[Sequence[str]]): A title for each.
    """
    left, top, right, bottom = window_of([result for results in rows for result in results])
    figure, axes = grid(len(rows), len(rows[0]), (bottom - top) / (right - left))
    for line, results, names in zip(axes, rows, titles, strict=True):
        for axis, result, title in zip(line, results, names, strict=True):
            height, width = result.heat.shape
            axis.imshow(colour(heat_of(result.heat)), extent=(0, width, height, 0))
            _, (x, y) = erf_size(result.heat)
            axis.add_patch(Circle((x + 0.5, y + 0.5), 2 * result.sigma, fill=False, color='white', lw=0.8, ls='--'))
            x, y, x_end, y_end = result.cell
            axis.add_patch(Rectangle((x, y), x_end - x, y_end - y, fill=False, color='cyan', lw=0.6))
            axis.plot(*result.anchor, marker='x', color='cyan', markersize=7, markeredgewidth=1.4)
            axis.set_xlim(left, right)
            axis.set_ylim(bottom, top)
            axis.set_title(f'{title}\nsigma {result.sigma:.1f} px{" (cut)" if result.cut else ""}', fontsize=8)
    figure.supxlabel(
        f'x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f} of an input of {width}x{height} pixels', fontsize=8
    )
    save_figure(path, figure)

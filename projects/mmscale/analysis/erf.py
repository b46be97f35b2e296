"""Effective receptive fields (ERF): how far around a token the image has a say in it.

Papers: Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016;
"Context-Guided Semantic Alignment for Feature Fusion Networks" (FINE), appendix F, eqs. 11-13, figs. 6 and 10.

A token is one location of a feature map. Its influence map is the magnitude of its gradient with respect to the
network's input (eq. 11), and the size sigma of its ERF is the standard deviation of that map (eq. 12).

Our choices, where the papers leave it open:

- the token's response is the sum over its channels, the influence of a pixel the sum over its channels of |gradient|.
  Channels that a LayerNorm has just normalised add up to a constant, whose gradient is rounding: such a layer is
  refused and needs ``response='signs'``, the sum with fixed random signs;
- sigma is taken from second moments of the influence map g, normalised to sum 1, and not from a fit:
  ``sigma = sqrt((var_u + var_v) / 2)``. It is exact for a stack of linear convolutions;
- the input is the network's, after the data pre-processor: normalised, padding included;
- a position is a share of the map's width and height; the token is the one whose cell contains it.

An input cuts off what would lie outside of it, so sigma is too small where g reaches the border: ``edge`` is the share
of g within 5 % of the input's side from it, and above 1 % a value is marked as cut.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .taps import Tap, capture, parse_taps, require_whole_image

__all__ = ['LayerERF', 'erf_size', 'influence_map', 'measure_erf', 'stage_ratios', 'token_index']

EDGE = 0.05  # width of the strip along the border, as a share of the input's side
RESPONSES = ('sum', 'signs')
CUT = 0.01  # share of the influence in that strip above which sigma counts as cut


@dataclass
class LayerERF:
    """The ERF of one layer, over images.

    Attributes:
        layer (str): Its name.
        stride (float): The input's height by the map's, of the first image.
        sigmas (list[float]): sigma of every image, in pixels of the network's input.
        edges (list[float]): Share of the influence near the border, of every image.
        dead (int): Images whose token had no gradient at all; they are in no average.
        heat (np.ndarray | None): The influence map, mean over images of the first one's size, each summing to 1.
        cell (tuple[float, float, float, float]): The token's cell in the first image: left, top, right, bottom.
        anchor (tuple[float, float]): The position asked for, in pixels (x, y) of the first image.
    """

    layer: str
    stride: float = 0.0
    sigmas: list[float] = field(default_factory=list)
    edges: list[float] = field(default_factory=list)
    dead: int = 0
    heat: np.ndarray | None = None
    cell: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    anchor: tuple[float, float] = (0.0, 0.0)

    @property
    def sigma(self) -> float:
        """float: E[sigma], the mean over images."""
        return mean(self.sigmas)

    @property
    def edge(self) -> float:
        """float: Mean share of the influence near the border."""
        return mean(self.edges)

    @property
    def cut(self) -> bool:
        """bool: Whether the input's border cuts the ERF, so that sigma is too small."""
        return self.edge > CUT

    def to_dict(self) -> dict[str, Any]:
        """What a report needs, without the picture; ready for JSON."""
        return dict(
            layer=self.layer,
            stride=self.stride,
            sigma=self.sigma,
            sigma_sd=stdev(self.sigmas) if len(self.sigmas) > 1 else None,
            images=len(self.sigmas),
            without_gradient=self.dead,
            edge_share=self.edge,
            cut_by_border=self.cut,
            sigmas=self.sigmas,
        )


def erf_size(influence: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Size and centre of an influence map by its moments.

    Args:
        influence (np.ndarray): g of eq. 11, ``(H, W)``, not negative.

    Returns:
        tuple[float, tuple[float, float]]: ``sqrt((var_u + var_v) / 2)`` and the mean ``(x, y)``, in pixels.

    Raises:
        ValueError: If the map has no influence at all.

    Example:
        >>> erf_size(np.ones((3, 3)))  # a box of 3 x 3: sqrt((3 ** 2 - 1) / 12)
        (0.816496580927726, (1.0, 1.0))
    """
    influence = np.asarray(influence, dtype=np.float64)
    total = influence.sum()
    if not (np.isfinite(total) and total > 0):
        raise ValueError(f'an influence map must have a positive, finite sum, but it is {total}')
    variances, centre = [], []
    for axis in (0, 1):  # sum over rows: along x; over columns: along y
        share = influence.sum(axis=axis) / total
        places = np.arange(len(share))
        centre.append(float(share @ places))
        variances.append(float(share @ (places - centre[-1]) ** 2))
    return float(np.sqrt(sum(variances) / 2)), (centre[0], centre[1])


def edge_share(influence: np.ndarray) -> float:
    """Share of an influence map within :data:`EDGE` of its side from the border.

    Example:
        >>> round(edge_share(np.ones((100, 100))), 2)  # 1 - 0.9 ** 2
        0.19
    """
    height, width = influence.shape
    top, left = int(np.ceil(EDGE * height)), int(np.ceil(EDGE * width))
    inside = influence[top : height - top, left : width - left].sum()
    return max(0.0, float(1 - inside / influence.sum()))  # a sum over parts rounds differently


def token_index(position: Sequence[float], size: Sequence[int]) -> tuple[int, int]:
    """The token whose cell contains a position.

    Args:
        position (Sequence[float]): ``(x, y)`` as shares of width and height, 0 to 1.
        size (Sequence[int]): ``(H, W)`` of the map.

    Returns:
        tuple[int, int]: ``(row, column)``.

    Example:
        >>> token_index((0.5, 0.1), (25, 40))
        (2, 20)
    """
    (x, y), (height, width) = position, size
    return min(int(y * height), height - 1), min(int(x * width), width - 1)


def influence_map(feature: Tensor, inputs: Tensor, position: Sequence[float], response: str = 'sum') -> Tensor:
    """Eq. 11 for one token of one image.

    Args:
        feature (Tensor): The layer's map, ``(1, C, h, w)``, part of autograd's graph.
        inputs (Tensor): The network's input that it was computed from, ``(1, C, H, W)``.
        position (Sequence[float]): ``(x, y)`` as shares of width and height.
        response (str): What of the token: ``'sum'``, over its channels, or ``'signs'``, that sum with fixed random
            signs. Defaults to 'sum'.

    Returns:
        Tensor: ``(H, W)``; zero where the pixel has no say.
    """
    row, column = token_index(position, feature.shape[-2:])
    if not feature.requires_grad:
        return torch.zeros(inputs.shape[-2:])
    token = feature[0, :, row, column]
    if response == 'signs':
        token = token * (torch.randint(0, 2, token.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(token)
    (gradient,) = torch.autograd.grad(token.sum(), inputs, retain_graph=True, allow_unused=True)
    return torch.zeros(inputs.shape[-2:]) if gradient is None else gradient[0].abs().sum(0)


def measure_erf(
    model: nn.Module,
    images: Iterable[tuple[Tensor, Callable[[Tensor], Any]]],
    layers: Sequence[str],
    position: Sequence[float] = (0.5, 0.5),
    response: str = 'sum',
) -> list[LayerERF]:
    """Measure the ERF of layers over images.

    Args:
        model (nn.Module): The network; it is put into eval mode, so that batch norm is a fixed affine map.
        images (Iterable): Pairs of the network's input ``(1, C, H, W)`` and a function that runs the network on it.
        layers (Sequence[str]): Names as in :mod:`mmscale.analysis.taps`.
        position (Sequence[float]): The token's place, ``(x, y)`` as shares of width and height. Defaults to the centre.
        response (str): As in :func:`influence_map`. Defaults to 'sum'.

    Returns:
        list[LayerERF]: One per layer.

    Raises:
        ValueError: If a layer does not exist, is not run, never has a gradient to the image, or has channels that add
            up to a constant.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)).double()
        >>> for parameter in model.parameters():
        ...     _ = nn.init.ones_(parameter)
        >>> image = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
        >>> [round(layer.sigma, 6) for layer in measure_erf(model, [(image, model)], ['0', '1'])]
        [0.816497, 1.154701]
    """
    if not all(0 <= share <= 1 for share in position):
        raise ValueError(f'position={tuple(position)} must be two shares of width and height, from 0 to 1')
    if response not in RESPONSES:
        raise ValueError(f'response={response!r} is unknown: choose one of {RESPONSES}')
    taps = parse_taps(model, layers)
    results = [LayerERF(layer) for layer in layers]
    kept: list[list[np.ndarray]] = [[] for _ in layers]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for inputs, run in images:
            for result, heats, influence in zip(
                results, kept, _influences(model, taps, inputs, run, position, response, results), strict=True
            ):
                if not influence.sum() > 0:
                    result.dead += 1
                    continue
                result.sigmas.append(erf_size(influence)[0])
                result.edges.append(edge_share(influence))
                if not heats or heats[0].shape == influence.shape:
                    heats.append(influence / influence.sum())
    finally:
        for module in training:
            module.training = True
    for result, heats in zip(results, kept, strict=True):
        if not heats:
            raise ValueError(
                f"layer '{result.layer}' has no gradient to the image at position {tuple(position)}: it does not "
                'depend on it, or every channel of the token is switched off'
            )
        result.heat = np.mean(heats, axis=0)
    return results


def _influences(
    model: nn.Module,
    taps: Sequence[Tap],
    inputs: Tensor,
    run: Callable[[Tensor], Any],
    position: Sequence[float],
    response: str,
    results: Sequence[LayerERF],
) -> Iterable[np.ndarray]:
    """Influence maps of all layers for one image; notes the geometry of the first."""
    inputs = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        features, _ = capture(model, taps, lambda: run(inputs))
    height, width = inputs.shape[-2:]
    for feature, result, tap in zip(features, results, taps, strict=True):
        require_whole_image(tap, feature)
        influence = influence_map(feature, inputs, position, response)
        if not result.stride:
            check_response(tap, feature, inputs, position, influence)
            rows, columns = feature.shape[-2:]
            row, column = token_index(position, (rows, columns))
            x, y = width / columns, height / rows
            result.stride = height / rows
            result.cell = (column * x, row * y, (column + 1) * x, (row + 1) * y)
            result.anchor = (position[0] * width, position[1] * height)
        yield influence.detach().double().cpu().numpy()


def check_response(tap: Tap, feature: Tensor, inputs: Tensor, position: Sequence[float], influence: Tensor) -> None:
    """Refuse channels that add up to a constant: what is left of their gradient is rounding.

    Raises:
        ValueError: If the influence is a thousand times smaller than with random signs.
    """
    if influence.sum() < 1e-3 * influence_map(feature, inputs, position, 'signs').sum():
        raise ValueError(
            f"the channels of layer '{tap}' add up to a constant, as behind a LayerNorm, so that their sum has no "
            'gradient: --response signs gives each channel a random sign'
        )


def stage_ratios(results: Sequence[LayerERF]) -> list[float]:
    """Eq. 13: E[sigma] of each layer by that of the layer before it."""
    return [high.sigma / low.sigma for low, high in zip(results, results[1:], strict=False)]

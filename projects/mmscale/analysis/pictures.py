"""Heat maps as pictures: colours, overlays, and figures that are written whole or not at all."""

import os
import tempfile
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ['COLOURS', 'check_picture_path', 'colour', 'grid', 'overlay', 'save_figure', 'to_unit']

COLOURS = ('#4c72b0', '#dd8452', '#55a868')  # of bars and lines that stand side by side
COLOUR_MAPS = {'inferno': cv2.COLORMAP_INFERNO, 'turbo': cv2.COLORMAP_TURBO}


def to_unit(heat: np.ndarray) -> np.ndarray:
    """Stretch a map to 0..1 from its minimum to its maximum; a constant map becomes zero.

    Example:
        >>> to_unit(np.array([[1.0, 3.0], [2.0, 5.0]]))
        array([[0.  , 0.5 ],
               [0.25, 1.  ]])
    """
    heat = np.asarray(heat, dtype=np.float64)
    low, high = heat.min(), heat.max()
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)


def colour(heat: np.ndarray, name: str = 'inferno') -> np.ndarray:
    """Colours of a map.

    Args:
        heat (np.ndarray): ``(H, W)`` in 0..1; what lies outside is clipped.
        name (str): 'inferno' (dark to bright) or 'turbo' (blue to red). Defaults to 'inferno'.

    Returns:
        np.ndarray: RGB, uint8, ``(H, W, 3)``.
    """
    grey = np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, COLOUR_MAPS[name]), cv2.COLOR_BGR2RGB)


def overlay(picture: np.ndarray, heat: np.ndarray, strength: float = 0.5, name: str = 'turbo') -> np.ndarray:
    """A heat map over a picture of the same size.

    Args:
        picture (np.ndarray): RGB, uint8, ``(H, W, 3)``.
        heat (np.ndarray): ``(H, W)`` in 0..1.
        strength (float): Share of the heat map's colours. Defaults to 0.5.
        name (str): As in :func:`colour`. Defaults to 'turbo'.

    Returns:
        np.ndarray: RGB, uint8, ``(H, W, 3)``.
    """
    return cv2.addWeighted(picture, 1 - strength, colour(heat, name), strength, 0)


def grid(
    rows: int, columns: int, aspect: float = 1.0, cell: float = 2.6, titled: int | None = None
) -> tuple[Figure, np.ndarray]:
    """A figure of pictures without axes.

    Args:
        rows (int): Number of rows.
        columns (int): Number of columns.
        aspect (float): Height of a picture by its width. Defaults to 1.0.
        cell (float): Width of a picture in inches. Defaults to 2.6.
        titled (int, optional): Number of rows with a title. Defaults to None: all.

    Returns:
        tuple[Figure, np.ndarray]: The figure and its axes, ``(rows, columns)``.
    """
    height = rows * (cell * aspect + 0.05) + 0.4 * (rows if titled is None else titled)
    figure = Figure(figsize=(columns * cell, height), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes


def check_picture_path(path: str | PathLike) -> None:
    """Refuse a file name of which matplotlib makes no picture, before the work that the picture would show.

    Raises:
        ValueError: If the suffix is unknown.
    """
    suffix = Path(path).suffix.lower().lstrip('.')
    known = FigureCanvasAgg.get_supported_filetypes()
    if suffix not in known:
        raise ValueError(f"picture '{path}' should end in one of {', '.join('.' + name for name in sorted(known))}")


def save_figure(path: str | PathLike, figure: Figure, dpi: int = 130) -> None:
    """Write a figure whole or not at all, and make its folder.

    Args:
        path (str | PathLike): The file; one that exists is replaced.
        figure (Figure): The figure.
        dpi (int): Pixels per inch. Defaults to 130.
    """
    check_picture_path(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem + '.', suffix=path.suffix)
    os.close(handle)
    try:
        figure.savefig(temporary, dpi=dpi, bbox_inches='tight')  # titles of two lines stay whole
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

"""A detector in an ONNX file of ``tools/deploy/export_onnx.py``: pixels in, boxes in pixels out.

The file says itself how an image becomes its input (class names, order of channels, resizing, padding); normalising,
the network and its post-processing are inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import cv2
import numpy as np

from mmscale.datasets.transforms import LoadImageFromFile
from mmscale.engine.cli import UsageError

from .detections import Detections, clip_boxes, keep_above
from .onnx_input import InputRules, read_rules

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

__all__ = ['OnnxModel']

OUTPUTS = ('boxes', 'scores', 'labels')


@dataclass
class Prepared:
    """An image on its way into the file's network.

    Attributes:
        inputs (np.ndarray): float32, ``(3, H, W)``.
        scale (tuple[float, float]): Width and height of the resized image, by those of the original.
        offset (tuple[int, int]): Left and top of the resized image in the input.
        size (tuple[int, int]): Height and width of the original.
    """

    inputs: np.ndarray
    scale: tuple[float, float]
    offset: tuple[int, int]
    size: tuple[int, int]


class OnnxModel:
    """An exported detector, run by onnxruntime.

    Args:
        path (str | PathLike): The file.
        device (str, optional): 'cpu' or 'cuda'. Defaults to None: a GPU if the installed onnxruntime can use one.

    Attributes:
        name (str): The file, for a report.
        classes (tuple[str, ...]): Names of the classes, as the file has them.
        loader (LoadImageFromFile): How image files are decoded for it.
        fixed_batch (int, optional): Images per batch, where the file has that fixed; else None.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If onnxruntime is not installed.
        UsageError: If the file is damaged, or lacks what the export tool writes.
        ValueError: If the device is unknown, or the installed onnxruntime cannot use it.
    """

    def __init__(self, path: str | PathLike, device: str | None = None) -> None:
        if onnxruntime is None:
            raise ImportError('onnxruntime, which runs ONNX files, is not installed: pip install onnxruntime')
        if not Path(path).is_file():
            raise FileNotFoundError(f"ONNX file '{path}' does not exist")
        self.name = str(path)
        self.loader = LoadImageFromFile()
        self._session = _open_session(path, device)
        shape, self.fixed_batch = _check_interface(path, self._session)
        self._rules: InputRules = read_rules(path, self._session.get_modelmeta().custom_metadata_map, shape)
        self.classes = self._rules.classes

    def prepare(self, image: np.ndarray, path: str | PathLike, number: int = 0) -> Prepared:
        """Resize and pad an image as the file's rules say.

        Args:
            image (np.ndarray): BGR, uint8, ``(H, W, 3)``.
            path (str | PathLike): Its file; not read.
            number (int): Not read. Defaults to 0.
        """
        resized = self._rules.resize(image)
        scale = (resized.shape[1] / image.shape[1], resized.shape[0] / image.shape[0])
        if self._rules.channel_order == 'RGB':
            resized = cv2.cvtColor(resized, cv2.COLOR_BGR2RGB)
        padded, offset = self._rules.pad(resized.astype(np.float32))
        return Prepared(np.ascontiguousarray(padded.transpose(2, 0, 1)), scale, offset, image.shape[:2])

    def fits_batch(self, first: Prepared, other: Prepared) -> bool:
        """Whether two images may share a batch: if their inputs have the same size."""
        return first.inputs.shape == other.inputs.shape

    def detect(self, batch: Sequence[Prepared], score_thr: float) -> list[Detections]:
        """Run the network on images of one size; a short batch is filled up where the file fixes its size.

        Args:
            batch (Sequence[Prepared]): Images as :meth:`prepare` makes them.
            score_thr (float): Lowest score of a detection.
        """
        missing = (self.fixed_batch or len(batch)) - len(batch)
        inputs = np.stack([image.inputs for image in [*batch, *[batch[-1]] * missing]])
        results = self._session.run(list(OUTPUTS), {'images': inputs})
        return [
            _to_detections(image, *(output[index] for output in results), score_thr)
            for index, image in enumerate(batch)
        ]


def _to_detections(
    image: Prepared, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, score_thr: float
) -> Detections:
    """Results of one image that reach the score, without the rows that only fill the output up."""
    kept = keep_above(boxes, scores, score_thr) & (labels >= 0)
    boxes = (boxes[kept].astype(np.float64) - np.tile(image.offset, 2)) / np.tile(image.scale, 2)
    return Detections(clip_boxes(boxes, image.size), scores[kept], labels[kept])


def _open_session(path: str | PathLike, device: str | None):
    """Load a file; onnxruntime's own errors, which are of many types, in a sentence."""
    has_gpu = 'CUDAExecutionProvider' in onnxruntime.get_available_providers()
    kind = (device or ('cuda' if has_gpu else 'cpu')).partition(':')
    if kind[0] not in ('cpu', 'cuda') or not (kind[2] or '0').isdigit():
        raise ValueError(f"device '{device}' cannot be used: choose cpu or cuda")
    providers: list = ['CPUExecutionProvider']
    if kind[0] == 'cuda':
        if not has_gpu:
            raise ValueError(
                f"device '{device}' cannot be used: the installed onnxruntime is built for CPUs; "
                'pip uninstall onnxruntime && pip install onnxruntime-gpu'
            )
        providers.insert(0, ('CUDAExecutionProvider', dict(device_id=int(kind[2] or 0))))
    try:
        session = onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # InvalidProtobuf, NoSuchFile, Fail, InvalidGraph, ...: they share no base class
        reason = ' '.join(str(error).split())
        raise UsageError(f"ONNX file '{path}' cannot be loaded, it is damaged or no ONNX file ({reason})") from error
    if device is not None and kind[0] == 'cuda' and 'CUDAExecutionProvider' not in session.get_providers():
        raise ValueError(f"device '{device}' cannot be used: onnxruntime did not find CUDA's libraries")
    return session


def _check_interface(path: str | PathLike, session) -> tuple[tuple[int, int] | None, int | None]:
    """Height and width that the file takes, and images per batch; None for what it leaves open."""
    inputs = {node.name: node.shape for node in session.get_inputs()}
    outputs = [node.name for node in session.get_outputs()]
    if list(inputs) != ['images'] or len(inputs['images']) != 4 or not set(OUTPUTS) <= set(outputs):
        raise UsageError(
            f"ONNX file '{path}' takes {', '.join(inputs)} and gives {', '.join(outputs)}; it should take images "
            '(B, 3, H, W) and give boxes, scores and labels, as tools/deploy/export_onnx.py writes it'
        )
    batch, _, height, width = inputs['images']
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return size, batch if isinstance(batch, int) else None

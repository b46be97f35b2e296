"""Does an exported file say what the detector says? Both run on the same images, and their detections are compared.

Two programs never agree on every bit, and a score that lies a hair's breadth from a threshold may pass in one and fail
in the other. Detections are therefore paired, class by class, and what is told is how many pairs agree, how far those
are apart at most, and how many detections have no counterpart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from scipy.optimize import linear_sum_assignment
from torch import nn

from mmscale.analysis.detector import Detector, read_images

from .metadata import channel_order

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

__all__ = ['Agreement', 'check_batches', 'compare', 'detect_with_torch', 'image_batches', 'random_batches']

TOLERANCE = 1e-3  # of scores, and of boxes over a hundredth of the image's longer side
RANDOM_SIZES = ((192, 256), (203, 333))  # neither is the traced size; the second is no multiple of anything
COUNTS = (1, 3)  # neither is the number of images that were traced


@dataclass
class Agreement:
    """How two lists of detections agree.

    Attributes:
        images (int): Images that both saw.
        pairs (int): Detections with the same class, score and box in both, within the tolerance.
        unpaired (int): Other detections, of either.
        scores (float): Largest difference of scores in a pair.
        boxes (float): Largest difference of box sides in a pair, in pixels.
    """

    images: int = 0
    pairs: int = 0
    unpaired: int = 0
    scores: float = 0.0
    boxes: float = 0.0

    def __bool__(self) -> bool:
        """Whether all but one in fifty agree: a threshold may fall between two roundings of one number."""
        return self.unpaired <= self.pairs / 25

    def __add__(self, other: 'Agreement') -> 'Agreement':
        return Agreement(
            self.images + other.images,
            self.pairs + other.pairs,
            self.unpaired + other.unpaired,
            max(self.scores, other.scores),
            max(self.boxes, other.boxes),
        )


def compare(first: Sequence[np.ndarray], second: Sequence[np.ndarray], longer_side: float = 100.0) -> Agreement:
    """Pair the detections of one image.

    Args:
        first (Sequence[np.ndarray]): Boxes ``(n, 4)``, scores ``(n,)`` and labels ``(n,)``; labels below 0 are no
            detections.
        second (Sequence[np.ndarray]): Likewise, ``m`` of them.
        longer_side (float): Of the image, which the tolerance of boxes is measured by. Defaults to 100: as scores'.

    Returns:
        Agreement: Of this image.

    Example:
        >>> box, label = np.array([[0.0, 0, 10, 10]]), np.array([1])
        >>> compare((box, np.array([0.5]), label), (box + 1e-4, np.array([0.5]), label))
        Agreement(images=1, pairs=1, unpaired=0, scores=0.0, boxes=0.0001)
    """
    (boxes, scores, labels), (other_boxes, other_scores, other_labels) = (
        [part[np.asarray(detections[2]) >= 0] for part in map(np.asarray, detections)] for detections in (first, second)
    )
    score_gap = np.abs(scores[:, None] - other_scores[None])
    box_gap = np.abs(boxes[:, None] - other_boxes[None]).max(-1)
    limit = TOLERANCE * longer_side / 100
    agree = (labels[:, None] == other_labels[None]) & (score_gap <= TOLERANCE) & (box_gap <= limit)
    rows, columns = linear_sum_assignment(np.where(agree, score_gap / TOLERANCE + box_gap / limit, 1e3))
    paired = agree[rows, columns]
    rows, columns = rows[paired], columns[paired]
    return Agreement(
        images=1,
        pairs=len(rows),
        unpaired=len(scores) + len(other_scores) - 2 * len(rows),
        scores=float(np.round(score_gap[rows, columns].max(initial=0.0), 12)),
        boxes=float(np.round(box_gap[rows, columns].max(initial=0.0), 12)),
    )


def check_batches(model: nn.Module, file: bytes | str | PathLike, batches: Iterator[np.ndarray]) -> Agreement:
    """Run a file with onnxruntime and the detector with MMDetection's own ``predict``, and compare.

    Args:
        model (nn.Module): The detector as it was trained.
        file (bytes | str | PathLike): The exported file, or its content.
        batches (Iterator[np.ndarray]): Images as the file takes them, ``(B, 3, H, W)``.

    Raises:
        ImportError: If onnxruntime is not installed.
        ValueError: If the graph fails on one of them.
    """
    if onnxruntime is None:
        raise ImportError('onnxruntime, which runs ONNX files, is not installed: pip install onnxruntime')
    source = file if isinstance(file, bytes) else str(file)
    session = onnxruntime.InferenceSession(source, providers=['CPUExecutionProvider'])
    total = Agreement()
    for images in batches:
        try:
            outputs = session.run(['boxes', 'scores', 'labels'], {'images': images})
        except Exception as error:  # Fail, InvalidArgument, RuntimeException, ...: they share no base class
            shape = 'x'.join(map(str, images.shape))
            raise ValueError(
                f'the exported graph fails on an input of {shape}: {str(error).splitlines()[0]}'
            ) from error
        for index, expected in enumerate(detect_with_torch(model, images)):
            total += compare(expected, [output[index] for output in outputs], max(images.shape[-2:]))
    return total


@torch.no_grad()
def detect_with_torch(model: nn.Module, images: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What MMDetection's ``predict`` finds: boxes, scores and labels of every image.

    Args:
        model (nn.Module): The detector.
        images (np.ndarray): As an exported file takes them, ``(B, 3, H, W)``.
    """
    size = images.shape[-2:]
    loaded = images[:, ::-1] if channel_order(model) == 'RGB' else images  # as a pipeline hands them on
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    data = dict(
        inputs=list(torch.from_numpy(np.ascontiguousarray(loaded))),
        data_samples=[DetDataSample(metainfo=dict(meta, img_id=index)) for index in range(len(images))],
    )
    found = [sample.pred_instances.cpu().numpy() for sample in model.test_step(data)]
    return [(instances.bboxes, instances.scores, instances.labels) for instances in found]


def random_batches(size: tuple[int, int] | None, seed: int = 0) -> Iterator[np.ndarray]:
    """Images of random pixels: one alone and three together, at two sizes where the size is open.

    Args:
        size (tuple[int, int], optional): Height and width; None: open.
        seed (int): Of the pixels. Defaults to 0.
    """
    rng = np.random.default_rng(seed)
    for count, (height, width) in zip(COUNTS, (size, size) if size else RANDOM_SIZES, strict=True):
        yield rng.integers(0, 256, (count, 3, height, width)).astype(np.float32)


def image_batches(
    detector: Detector, path: str | PathLike, size: tuple[int, int] | None, number: int = 4
) -> Iterator[np.ndarray]:
    """Real images, through the config's test pipeline; then each with its mirror images, trimmed if the size is open.

    Args:
        detector (Detector): Whose pipeline they pass.
        path (str | PathLike): An image, or a folder.
        size (tuple[int, int], optional): Height and width that they are stretched to; None: open.
        number (int): At most so many images. Defaults to 4.
    """
    for sample in read_images(detector, path, number):
        picture = sample.picture if channel_order(detector.model) == 'RGB' else sample.picture[..., ::-1]
        if size is not None:
            picture = cv2.resize(picture, size[::-1])
        image = np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32)
        yield image[None]
        trimmed = image if size is not None else image[:, : -(image.shape[1] // 8), : -(image.shape[2] // 10)]
        yield np.ascontiguousarray(np.stack([trimmed, trimmed[..., ::-1], trimmed[:, ::-1]]))

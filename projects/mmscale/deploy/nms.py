"""Non-maximum suppression whose result has a fixed size, in PyTorch and as ONNX's operator.

ONNX's NonMaxSuppression returns as many rows as boxes survive. A number that depends on the data makes every shape
after it unknown, and inference engines plan badly for that. Here the operator, and what turns its rows into a mask over
the candidates, are one operator of PyTorch's own, so that the shapes around it stay known. PyTorch runs it with MMCV's
NMS, the one that MMDetection calls.

Shape shorthand in this module:
    B: batch, K: candidates per image
"""

import torch
from mmcv.ops import nms
from torch import Tensor
from torch.onnx import symbolic_helper

__all__ = ['keep_best', 'register_translation']


@torch.library.custom_op('mmscale::keep_best', mutates_args=())
def keep_best(boxes: Tensor, scores: Tensor, iou_threshold: float, max_keep: int) -> Tensor:
    """Which candidates survive NMS; of each image at most the best ``max_keep``.

    Args:
        boxes (Tensor): ``(B, K, 4)``, x1 y1 x2 y2.
        scores (Tensor): ``(B, K)``. A candidate whose score is not above 0 takes no part.
        iou_threshold (float): A candidate whose IoU with a better survivor is above it is dropped.
        max_keep (int): At most so many survive in an image.

    Returns:
        Tensor: ``(B, K)``, bool.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10]]])
        >>> keep_best(boxes, torch.tensor([[0.5, 0.9, 0.4]]), 0.5, 3)
        tensor([[False,  True,  True]])
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image, (image_boxes, image_scores) in enumerate(zip(boxes, scores, strict=True)):
        candidates = (image_scores > 0).nonzero().flatten()
        if candidates.numel():
            _, best = nms(image_boxes[candidates].contiguous(), image_scores[candidates].contiguous(), iou_threshold)
            kept[image, candidates[best[:max_keep]]] = True
    return kept


@keep_best.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, max_keep: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def register_translation(opset: int) -> None:
    """Tell ``torch.onnx.export`` what :func:`keep_best` is in ONNX.

    Args:
        opset (int): Version of ONNX's operators, from which on it holds.
    """
    torch.onnx.register_custom_op_symbolic('mmscale::keep_best', _to_onnx, opset)


@symbolic_helper.parse_args('v', 'v', 'f', 'i')
def _to_onnx(graph, boxes, scores, iou_threshold, max_keep):
    """NonMaxSuppression with one class, and its rows as ones in a ``(B, K)`` of zeros."""

    def constant(*values):
        return graph.op('Constant', value_t=torch.tensor(values))

    rows = graph.op(
        'NonMaxSuppression',
        boxes,
        graph.op('Unsqueeze', scores, constant(1)),  # (B, 1, K)
        constant(max_keep),
        constant(iou_threshold),
        constant(0.0),
    )  # (survivors, 3): image, class, candidate
    places = graph.op('Gather', rows, constant(0, 2), axis_i=1)
    survivors = graph.op('Slice', graph.op('Shape', rows), constant(0), constant(1))
    ones = graph.op('Expand', constant(1.0), survivors)
    zeros = graph.op('Expand', constant(0.0), graph.op('Shape', scores))
    kept = graph.op('Greater', graph.op('ScatterND', zeros, places, ones), constant(0.0))
    return kept.setType(scores.type().with_dtype(torch.bool))

"""Hugging Face transformers' RT-DETR behind the interface of a detector: the peer that ours is compared with."""

import tempfile
from importlib.util import find_spec

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor

from mmscale.registry import MODELS

from .checkpoint import Checkpoint, write_checkpoint
from .convert import convert

__all__ = ['TransformersDetector', 'config_of_peer', 'equal_queries']


class TransformersDetector(BaseModel):
    """``RTDetrForObjectDetection`` with the weights that our detector starts from.

    Args:
        detector (dict): Config of an ``mmscale.RTDETR``.

    Raises:
        ModuleNotFoundError: If transformers is not installed.
        UsageError: If transformers has no such RT-DETR.
    """

    def __init__(self, detector: dict) -> None:
        if find_spec('transformers') is None:
            raise ModuleNotFoundError('the comparison needs transformers: pip install transformers')
        super().__init__(data_preprocessor=detector.get('data_preprocessor'))
        self.detector = MODELS.build(detector)
        self.peer = None

    def init_weights(self) -> None:
        """Initialise ours, put its weights into theirs, and forget ours."""
        from transformers import RTDetrForObjectDetection

        self.detector.init_weights()
        theirs, _ = convert(Checkpoint('mmscale', self.detector.state_dict()), 'hf')
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(folder, theirs)
            self.peer = RTDetrForObjectDetection.from_pretrained(folder).train(self.training)
        self.detector = None

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> tuple[Tensor, Tensor]:
        """Logits ``(1, B, Q, K)`` and boxes ``(1, B, Q, 4)`` of the last layer, as ours in the mode ``'tensor'``."""
        if mode != 'tensor':
            raise ValueError(f"mode={mode!r}: transformers' RT-DETR is here for comparison in the mode 'tensor' only")
        out = self.peer(inputs)
        return out.logits[None], out.pred_boxes[None]


def config_of_peer(config: Config) -> Config:
    """The config whose model is transformers' form of that of ``config``."""
    model = dict(type=TransformersDetector, detector=config.model.to_dict())
    content = dict(default_scope=config.get('default_scope', 'mmdet'), model=model)
    return Config(content, cfg_text='# no file', filename='transformers')


@torch.no_grad()
def equal_queries(ours: BaseModel, theirs: BaseModel, inputs: Tensor, tolerance: float = 1e-4) -> tuple[int, int]:
    """How many queries of ours say what one of theirs says, class logits and box, to ``tolerance``; and of how many.

    Queries are compared wherever they stand: scores of untrained weights nearly tie, so that the last digit decides the
    order, and which proposal comes last.
    """
    ours, theirs = (torch.cat(model(inputs, mode='tensor'), dim=-1)[-1] for model in (ours, theirs))
    nearest = torch.cdist(ours, theirs, p=float('inf')).amin(-1)
    return int((nearest <= tolerance).sum()), nearest.numel()

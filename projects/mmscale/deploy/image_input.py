"""The model's data pre-processor as the first layers of the exported graph."""

import torch.nn.functional as F
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

__all__ = ['ImageInput']


class ImageInput(nn.Module):
    """Normalises and pads a batch of images as the model's data pre-processor does.

    The channels keep their order: the caller gives them as the pre-processor puts them out. Padding is at the right and
    bottom, to a multiple of the model's divisor and with its value, after the normalisation.

    Args:
        preprocessor (ImgDataPreprocessor): The model's.

    Raises:
        ValueError: If it is of another kind, whose work would be lost.

    Example:
        >>> import torch
        >>> preprocessor = ImgDataPreprocessor(mean=[127.5] * 3, std=[127.5] * 3, pad_size_divisor=32)
        >>> ImageInput(preprocessor)(torch.full((1, 3, 30, 64), 255.0)).shape
        torch.Size([1, 3, 32, 64])
    """

    def __init__(self, preprocessor: nn.Module) -> None:
        super().__init__()
        if not isinstance(preprocessor, ImgDataPreprocessor):
            raise ValueError(
                f'data_preprocessor {type(preprocessor).__name__} cannot be exported: it should be a '
                "DetDataPreprocessor or another subclass of mmengine's ImgDataPreprocessor"
            )
        self.normalize = preprocessor._enable_normalize
        if self.normalize:
            self.register_buffer('mean', preprocessor.mean.clone())
            self.register_buffer('std', preprocessor.std.clone())
        self.divisor = preprocessor.pad_size_divisor
        self.pad_value = preprocessor.pad_value

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)``, 0 to 255, to ``(B, 3, ceil(H / divisor) * divisor, ceil(W / divisor) * divisor)``."""
        if self.normalize:
            images = (images - self.mean) / self.std
        height, width = images.shape[-2:]
        pad_h, pad_w = -height % self.divisor, -width % self.divisor
        return F.pad(images, (0, pad_w, 0, pad_h), value=self.pad_value)

"""Multi-head cross-level attention of FINE and the variants it is compared with.

Paper: "Context-Guided Semantic Alignment for Feature Fusion Networks", section 4.3, eqs. 5-7; variants: table 3.

Every variant maps queries from the low level and keys and values from the high level to one output per low-level
token. They share the projections and differ only in who attends to whom:

    CrossLevelAttention         every query to every key (softmax)        vanilla without sampling, AATS with it
    WindowCrossLevelAttention   a query to the window over its region     Swin, M = 7
    AreaCrossLevelAttention     a query to the stripe over its region     YOLOv12, A = 4
    LinearCrossLevelAttention   every query to every key, softmax-free    SimA

Our choices: projections have biases and start Xavier-uniform with zero biases (as in PyTorch's multi-head attention);
the windows and areas of the two levels cover the same region of the image, since the paper does not say how regions
of two levels pair.

Shape shorthand in this module:
    B: batch, C: channels, h: heads, d = C / h, Hq, Wq: size of the query map, Hk, Wk: size of the key map,
    Nq = Hq * Wq, Nk = Hk * Wk: tokens
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscale.registry import MODELS

__all__ = ['AreaCrossLevelAttention', 'CrossLevelAttention', 'LinearCrossLevelAttention', 'WindowCrossLevelAttention']

HEAD_DIM = 16  # per-head width d, section 5.3 and table 4


@MODELS.register_module()
class CrossLevelAttention(nn.Module):
    """Softmax attention of every query to every key.

    Eqs. 5-7 name four projections, W_Q, W_K, W_V and W_O: 4 C^2 weights. Every pair of models in the paper's tables
    1, 2 and 7 differs by twice that. So the reported model projects the tokens and then runs a multi-head attention
    that brings its own input and output projections: ``projections='double'``, 8 C^2 weights. ``'single'`` is the
    text to the letter.

    Args:
        channels (int): C, of both levels.
        num_heads (int, optional): h, must divide C. Defaults to ``C / 16`` (table 4: 16 channels a head).
        projections (str): How tokens become queries, keys, values and output.

            - ``'double'``: two linear maps each, 8 C^2 weights, what the paper's figures count. Default.
            - ``'single'``: one linear map each, 4 C^2 weights, eqs. 5-7 literally.
            - ``'feedforward'``: eqs. 5-7 and a perceptron, C to 2 C to C, on the output: 8 C^2 weights as well, of
              which 6 C^2 meet the low level's tokens and 2 C^2 the high level's (``'double'``: 4 and 4). The two cost
              the same where both levels have as many tokens, as with the paper's r = 2. Where they do not, table 3's
              and figure 5's operations are this form's (docs/fine.md). The perceptron is in no equation; GELU and the
              width are those of its authors' public code, halved.

    Raises:
        ValueError: If ``num_heads`` does not divide ``channels`` or ``projections`` is unknown.

    Example:
        >>> import torch
        >>> attention = CrossLevelAttention(channels=32)
        >>> attention(torch.rand(2, 32, 8, 6), torch.rand(2, 32, 4, 3)).shape
        torch.Size([2, 32, 8, 6])
    """

    def __init__(self, channels: int, num_heads: int | None = None, projections: str = 'double') -> None:
        super().__init__()
        if num_heads is None:
            if channels % HEAD_DIM:
                raise ValueError(
                    f'channels={channels} is not a multiple of {HEAD_DIM}, the default width of a head: '
                    f'name num_heads, one of {_divisors(channels)}'
                )
            num_heads = channels // HEAD_DIM
        if num_heads < 1 or channels % num_heads:
            raise ValueError(
                f'num_heads={num_heads} does not divide channels={channels}: choose one of {_divisors(channels)}'
            )
        depths = {'single': 1, 'double': 2, 'feedforward': 1}
        if projections not in depths:
            raise ValueError(f'projections={projections!r} is unknown: choose one of {sorted(depths)}')
        self.channels = channels
        self.num_heads = num_heads

        def project() -> nn.Sequential:
            return nn.Sequential(*(nn.Linear(channels, channels) for _ in range(depths[projections])))

        self.query, self.key, self.value, self.out = project(), project(), project(), project()
        if projections == 'feedforward':
            self.out.extend([nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def reparameterized(self) -> nn.Module:
        """The same attention for inference: of linear maps that follow each other one is left, 4 C^2 weights for
        ``'double'``'s 8."""
        folded = copy.deepcopy(self)
        for name in ('query', 'key', 'value', 'out'):
            setattr(folded, name, _fold_linears(getattr(self, name)))
        return folded

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Attend from the low level's tokens to the high level's.

        Args:
            low (Tensor): Query tokens as a map, ``(B, C, Hq, Wq)``.
            high (Tensor): Key and value tokens as a map, ``(B, C, Hk, Wk)``.

        Returns:
            Tensor: The coarse modulation map, ``(B, C, Hq, Wq)``.
        """
        low_tokens = low.flatten(2).transpose(1, 2)  # (B, Nq, C)
        high_tokens = high.flatten(2).transpose(1, 2)  # (B, Nk, C)
        query = self.query(low_tokens)  # eq. 5
        key, value = self.key(high_tokens), self.value(high_tokens)
        heads = self.attend(query, key, value, low.shape[-2:], high.shape[-2:])  # eq. 6
        out = self.out(heads)  # eq. 7
        # contiguous: a transposed view is a channels-last map, and everything after it would be laid out anew
        return out.transpose(1, 2).contiguous().view(low.shape)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, low_size: tuple[int, int], high_size: tuple[int, int]
    ) -> Tensor:
        """Eq. 6 for all heads, concatenated.

        Args:
            query (Tensor): ``(B, Nq, C)``.
            key (Tensor): ``(B, Nk, C)``.
            value (Tensor): ``(B, Nk, C)``.
            low_size (tuple[int, int]): ``(Hq, Wq)``.
            high_size (tuple[int, int]): ``(Hk, Wk)``.

        Returns:
            Tensor: ``(B, Nq, C)``.
        """
        heads = F.scaled_dot_product_attention(*map(self._split_heads, (query, key, value)))
        return self._merge_heads(heads)

    def _split_heads(self, tokens: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, h, N, d)``."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _merge_heads(self, heads: Tensor) -> Tensor:
        """``(B, h, N, d)`` to ``(B, N, C)``."""
        return heads.transpose(1, 2).flatten(2)


class RegionCrossLevelAttention(CrossLevelAttention):
    """Attention inside regions: a query sees only the keys that cover its own region of the image.

    Regions that hang over the edge are padded; padded keys are masked out and padded queries dropped.
    """

    def region_size(self, high_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a region, in key tokens."""
        raise NotImplementedError

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, low_size: tuple[int, int], high_size: tuple[int, int]
    ) -> Tensor:
        """As :meth:`CrossLevelAttention.attend`, one attention per region."""
        key_region = self.region_size(high_size)
        scale = [_ceil_div(low, high) for low, high in zip(low_size, high_size, strict=True)]  # the stride ratio
        query_region = [side * s for side, s in zip(key_region, scale, strict=True)]
        grid = [_ceil_div(high, side) for high, side in zip(high_size, key_region, strict=True)]

        valid = query.new_ones(1, high_size[0] * high_size[1], 1)
        mask = self._split_regions(valid, high_size, key_region, grid)[..., 0].bool()  # (G, keys of a region)
        queries = self._split_regions(query, low_size, query_region, grid)  # (B * G, queries of a region, C)
        keys, values = (self._split_regions(x, high_size, key_region, grid) for x in (key, value))
        heads = F.scaled_dot_product_attention(
            *map(self._split_heads, (queries, keys, values)), attn_mask=mask.repeat(query.shape[0], 1)[:, None, None]
        )
        return self._merge_regions(self._merge_heads(heads), low_size, query_region, grid)

    @staticmethod
    def _split_regions(tokens: Tensor, size, region, grid) -> Tensor:
        """``(B, H * W, C)`` to ``(B * G, region tokens, C)``, zero-padded to whole regions."""
        batch, _, channels = tokens.shape
        pad_h, pad_w = (n * side - length for n, side, length in zip(grid, region, size, strict=True))
        x = F.pad(tokens.view(batch, *size, channels), (0, 0, 0, pad_w, 0, pad_h))
        x = x.view(batch, grid[0], region[0], grid[1], region[1], channels)
        return x.transpose(2, 3).reshape(batch * grid[0] * grid[1], region[0] * region[1], channels)

    @staticmethod
    def _merge_regions(tokens: Tensor, size, region, grid) -> Tensor:
        """The inverse of :meth:`_split_regions`, cropped to ``size``."""
        channels = tokens.shape[-1]
        x = tokens.view(-1, grid[0], grid[1], region[0], region[1], channels).transpose(2, 3)
        x = x.reshape(-1, grid[0] * region[0], grid[1] * region[1], channels)
        return x[:, : size[0], : size[1]].flatten(1, 2)


@MODELS.register_module()
class WindowCrossLevelAttention(RegionCrossLevelAttention):
    """Window attention: ``window_size`` x ``window_size`` keys per query (table 3, after Swin Transformer).

    Args:
        window_size (int): M, in key tokens. Defaults to 7.
        **kwargs: As :class:`CrossLevelAttention`.

    Raises:
        ValueError: If ``window_size`` is below 1.
    """

    def __init__(self, *args, window_size: int = 7, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if window_size < 1:
            raise ValueError(f'window_size={window_size} must be at least 1')
        self.window_size = window_size

    def region_size(self, high_size: tuple[int, int]) -> tuple[int, int]:
        return self.window_size, self.window_size


@MODELS.register_module()
class AreaCrossLevelAttention(RegionCrossLevelAttention):
    """Area attention: the map is cut into ``num_areas`` horizontal stripes (table 3, after YOLOv12).

    A map whose height ``num_areas`` does not divide gets stripes of the next whole height; the last is smaller.

    Args:
        num_areas (int): A. Defaults to 4.
        **kwargs: As :class:`CrossLevelAttention`.

    Raises:
        ValueError: If ``num_areas`` is below 1.
    """

    def __init__(self, *args, num_areas: int = 4, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if num_areas < 1:
            raise ValueError(f'num_areas={num_areas} must be at least 1')
        self.num_areas = num_areas

    def region_size(self, high_size: tuple[int, int]) -> tuple[int, int]:
        return _ceil_div(high_size[0], self.num_areas), high_size[1]


@MODELS.register_module()
class LinearCrossLevelAttention(CrossLevelAttention):
    """Softmax-free attention, linear in the number of tokens (table 3, after SimA).

    Queries and keys are L1-normalised over the tokens, channel by channel; then ``Q (K^T V)`` needs no Nq x Nk matrix.
    """

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, low_size: tuple[int, int], high_size: tuple[int, int]
    ) -> Tensor:
        """As :meth:`CrossLevelAttention.attend`; the norms are taken in float32 whatever the precision around them."""
        dtype = value.dtype
        with torch.autocast(query.device.type, enabled=False):
            query, key = (F.normalize(x.float(), p=1, dim=1) for x in (query, key))
            query, key, value = map(self._split_heads, (query, key, value.float()))
            heads = query @ (key.transpose(-2, -1) @ value)
        return self._merge_heads(heads).to(dtype)


def _ceil_div(number: int, divisor: int) -> int:
    """Rounded up; without negative numbers, whose quotient a traced graph rounds the other way."""
    return (number + divisor - 1) // divisor


def _fold_linears(layers: nn.Sequential) -> nn.Sequential:
    """Linear maps that follow each other as one; other layers stay."""
    folded: list[nn.Module] = []
    for layer in layers:
        if not (folded and isinstance(layer, nn.Linear) and isinstance(folded[-1], nn.Linear)):
            folded.append(copy.deepcopy(layer))
            continue
        first = folded.pop()
        both = nn.Linear(first.in_features, layer.out_features).to(layer.weight)
        with torch.no_grad():
            both.weight.copy_(layer.weight.double() @ first.weight.double())
            both.bias.copy_(layer.weight.double() @ first.bias.double() + layer.bias.double())
        folded.append(both)
    return nn.Sequential(*folded)


def _divisors(number: int) -> list[int]:
    return [i for i in range(1, number + 1) if number % i == 0]

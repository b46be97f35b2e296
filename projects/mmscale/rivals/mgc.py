"""MGC, multi-level global context: what the whole image shows, collected from all levels and handed back to each.

Paper: "A^2-FPN: Attention Aggregation Based Feature Pyramid Network for Instance Segmentation" (Hu, Li, Fang and Wang,
CVPR 2021), its first module alone, as in FINE's table 2. It replaces FPN's lateral convolutions, which lose meaning as
they cut 2048 channels to 256:

    C5 --+-- collect n5 contexts --+            +--> read --(+)--> L5
    C4 --+-- collect n4 contexts --+-- reason --+--> read --(+)--> L4
    C3 --+-- collect n3 contexts --+            +--> read --(+)--> L3
         |                                                   ^
         +--------------------- 1x1 (FPN's laterals) --------+

Of the paper's text only its abstract was at hand; the rest follows the form that FINE's table 2 counts (its authors'
repository names the paper's equations 1-6 beside the parts): the collector, reasoning within a level and then over
all, the distributor, n = 64 (6 - i) contexts for the level i = 2 to 5, cosine similarities, the regulariser that keeps
the entities orthogonal. Ours, where that form cannot be meant as it stands:

- An entity is a vector, a row of the collector's matrix; its similarity to a pixel is the cosine of the two, scaled by
  the root of their width. (There: a product of two sums over the pixel's channels.) It starts orthogonal.
- Contexts exchange messages over a graph whose edges are the scaled cosine similarities, without weights of its own.
  (There every context is mapped alone, so that no level learns of another; ``reasoning='pointwise'`` is that form.)
- The distributor scales its cosines as well; unscaled, 256 of them make a nearly uniform average.
- Each level reads its own contexts after the reasoning, which cost decides: ``read='all'``, the contexts of all levels,
  would add 11 G multiply-adds to a Faster R-CNN at 800x800 and miss the table by 7 %.

Shape shorthand in this module:
    B: batch, C: channels of the neck, Ci: channels of the backbone's level, H, W: its size, n: contexts of a level
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscale.layers import TopDownFPN
from mmscale.registry import MODELS

__all__ = [
    'MGCFPN',
    'ContextCollector',
    'ContextDistributor',
    'ContextReasoning',
    'MultiLevelGlobalContext',
    'cosine_attention',
]

EPS = 1e-6  # of a norm; half precision has it, too


def cosine_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Softmax over the keys of the cosine similarities, scaled by the root of the width d.

    Args:
        queries (Tensor): ``(B, q, d)``.
        keys (Tensor): ``(B, k, d)``.

    Returns:
        Tensor: ``(B, q, k)``; every row sums to 1.
    """
    scale = math.sqrt(queries.shape[-1])
    queries, keys = (F.normalize(x, dim=-1, eps=EPS) for x in (queries, keys))
    return (scale * queries @ keys.transpose(1, 2)).softmax(dim=-1)


class ContextCollector(nn.Module):
    """Average a level's embedded pixels into n contexts, each over the pixels that resemble its entity.

    Args:
        in_channels (int): Ci.
        channels (int): C.
        contexts (int): n.
    """

    def __init__(self, in_channels: int, channels: int, contexts: int) -> None:
        super().__init__()
        self.entities = nn.Parameter(torch.empty(contexts, in_channels))
        nn.init.orthogonal_(self.entities)
        self.embed = nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, Ci, H, W)`` to ``(B, n, C)``."""
        entities = F.normalize(self.entities, dim=1, eps=EPS)[:, :, None, None]
        cosines = F.conv2d(x, entities) / x.norm(dim=1, keepdim=True).clamp(min=EPS)
        attention = (math.sqrt(x.shape[1]) * cosines).flatten(2).softmax(dim=-1)  # over the pixels
        return attention @ self.embed(x).flatten(2).transpose(1, 2)

    def orthogonality(self) -> Tensor:
        """``||W W^T - 1||^2`` of the entities W."""
        gram = self.entities @ self.entities.t()
        return (gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype)).square().sum()


class ContextReasoning(nn.Module):
    """Contexts plus what they learn: three maps C to C/4 to C/4 to C and, between the first two, of each other.

    Args:
        channels (int): C.
        graph (bool): Whether contexts exchange messages.
    """

    def __init__(self, channels: int, graph: bool) -> None:
        super().__init__()
        width = max(1, channels // 4)
        self.graph = graph
        self.reduce, self.update = nn.Linear(channels, width), nn.Linear(width, width)
        self.expand = nn.Linear(width, channels)

    def forward(self, contexts: Tensor) -> Tensor:
        """``(B, n, C)`` to ``(B, n, C)``."""
        x = F.relu(self.reduce(contexts))
        if self.graph:
            x = cosine_attention(x, x) @ x
        return contexts + self.expand(F.relu(self.update(x)))


class ContextDistributor(nn.Module):
    """For each pixel, the average of the contexts that resemble it.

    Args:
        in_channels (int): Ci.
        channels (int): C.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, contexts: Tensor) -> Tensor:
        """``(B, Ci, H, W)`` and ``(B, n, C)`` to ``(B, C, H, W)``."""
        attention = cosine_attention(self.query(x).flatten(2).transpose(1, 2), contexts)
        return self.out((attention @ contexts).transpose(1, 2).unflatten(2, x.shape[-2:]))


class MultiLevelGlobalContext(nn.Module):
    """MGC as a whole: what every level gets added, from all of them.

    Args:
        widths (Sequence[int]): Ci of every level, finest first.
        channels (int): C.
        contexts (Sequence[int], optional): n of each level. Defaults to None: 256, 192, 128, 64, and 64 for any further
            level.
        reasoning (str): ``'graph'`` or ``'pointwise'``, see :class:`MGCFPN`. Defaults to ``'graph'``.
        read (str): ``'own'`` or ``'all'``, see :class:`MGCFPN`. Defaults to ``'own'``.

    Raises:
        ValueError: If an option is unknown or does not fit the levels.
    """

    def __init__(
        self,
        widths: Sequence[int],
        channels: int,
        contexts: Sequence[int] | None = None,
        reasoning: str = 'graph',
        read: str = 'own',
    ) -> None:
        super().__init__()
        for name, value, choices in (('reasoning', reasoning, ('graph', 'pointwise')), ('read', read, ('own', 'all'))):
            if value not in choices:
                raise ValueError(f'{name}={value!r} is unknown to MGC: choose one of {choices}')
        if contexts is None:
            contexts = [max(64, 256 - 64 * i) for i in range(len(widths))]
        if len(contexts) != len(widths) or not all(isinstance(n, int) and n > 0 for n in contexts):
            raise ValueError(
                f'contexts={list(contexts)} must be one whole number from 1 for each of the {len(widths)} levels'
            )
        self.contexts, self.read = list(contexts), read
        graph = reasoning == 'graph'
        self.collect = nn.ModuleList(ContextCollector(w, channels, n) for w, n in zip(widths, contexts, strict=True))
        self.reason = nn.ModuleList(ContextReasoning(channels, graph) for _ in widths)
        self.reason_over_all = ContextReasoning(channels, graph)
        self.distribute = nn.ModuleList(ContextDistributor(w, channels) for w in widths)

    def orthogonality(self) -> Tensor:
        """The paper's regulariser, to be added to the loss with a weight of 1e-4: the sum over the levels of
        ``||W W^T - 1||^2``. MMDetection's detectors take no loss from a neck, so training with their loss alone leaves
        it out, as FINE's authors do."""
        return torch.stack([collect.orthogonality() for collect in self.collect]).sum()

    def global_context(self, maps: Sequence[Tensor]) -> Tensor:
        """The contexts of all levels after the reasoning, ``(B, sum of n, C)``; for analysis, too."""
        own = [reason(collect(x)) for reason, collect, x in zip(self.reason, self.collect, maps, strict=True)]
        return self.reason_over_all(torch.cat(own, dim=1))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """From one map ``(B, Ci, H, W)`` per level, finest first, to what its pixels read, ``(B, C, H, W)``."""
        contexts = self.global_context(maps)
        read = [contexts] * len(maps) if self.read == 'all' else contexts.split(self.contexts, dim=1)
        return [distribute(x, c) for distribute, x, c in zip(self.distribute, maps, read, strict=True)]


@MODELS.register_module()
class MGCFPN(TopDownFPN):
    """MMDetection's FPN whose lateral maps get the multi-level global context of A^2-FPN added.

    Padding that the data pre-processor added to an image is part of the context: a neck sees no mask.

    Args:
        *args: As MMDetection's ``FPN``.
        contexts (Sequence[int], optional): Contexts of each level in use, finest first. Defaults to None: 256, 192,
            128, 64, and 64 for any further level.
        reasoning (str): How contexts become better ones:

            - ``'graph'``: they exchange messages, within a level and then over all levels. Default.
            - ``'pointwise'``: each is mapped alone, the form that FINE's table 2 counts.
        read (str): What a level's pixels read:

            - ``'own'``: the contexts of their level, after the reasoning. Default.
            - ``'all'``: the contexts of all levels.
        **kwargs: As MMDetection's ``FPN``.

    Raises:
        ValueError: If an option is unknown or does not fit the levels, or an argument of FPN is wrong.

    Example:
        >>> import torch
        >>> neck = MGCFPN(in_channels=[16, 32, 64], out_channels=32, num_outs=3)
        >>> maps = [torch.rand(1, c, s, s) for c, s in zip([16, 32, 64], [32, 16, 8])]
        >>> [tuple(out.shape) for out in neck(maps)]
        [(1, 32, 32, 32), (1, 32, 16, 16), (1, 32, 8, 8)]
    """

    def __init__(
        self,
        *args,
        contexts: Sequence[int] | None = None,
        reasoning: str = 'graph',
        read: str = 'own',
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        widths = [self.in_channels[level] for level in self.levels]
        self.mgc = MultiLevelGlobalContext(widths, self.out_channels, contexts, reasoning, read)

    def _laterals(self, inputs: Sequence[Tensor]) -> dict[int, Tensor]:
        laterals = super()._laterals(inputs)
        context = self.mgc([inputs[level] for level in self.levels])
        return {level: lateral + c for (level, lateral), c in zip(laterals.items(), context, strict=True)}

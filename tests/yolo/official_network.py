"""YOLOv8, YOLOv10 and YOLOv12 in plain torch, literally: modules in the order and by the names of the official state
dicts, numbers of every scale written out, nothing shared with the package.

An independent peer for the converter's tests; evaluation only.
"""

import math

import torch
from torch import nn

from .official_blocks import CIB, PSA, SPPF, A2C2f, AreaBlock, Bottleneck, C3k, Conv, Head, SCDown, Stage

# Depth, width, most channels before the width.
SCALES = {
    'YOLOv8': dict(n=(0.33, 0.25, 1024), s=(0.33, 0.5, 1024), m=(0.67, 0.75, 768), l=(1, 1, 512)),
    'YOLOv10': dict(
        n=(0.33, 0.25, 1024), s=(0.33, 0.5, 1024), m=(0.67, 0.75, 768), b=(0.67, 1, 512), l=(1, 1, 512),
        x=(1, 1.25, 512),
    ),
    'YOLOv12': dict(n=(0.5, 0.25, 1024), s=(0.5, 0.5, 1024), m=(0.5, 1, 512), l=(1, 1, 512), x=(1, 1.5, 512)),
}  # fmt: skip

# YOLOv10's layers of compact inverted blocks; those of large kernels in n and s.
CIB_LAYERS = dict(n=(22,), s=(8, 22), m=(8, 19, 22), b=(8, 13, 19, 22), l=(8, 13, 19, 22), x=(6, 8, 13, 19, 22))


class Network(nn.Module):
    """A family at a scale, or at another width; YOLOv12 as in the turbo or in the first release."""

    def __init__(self, family, scale, first=False, width=None, classes=80):
        super().__init__()
        depth, own_width, most = SCALES[family][scale]

        def w(channels):
            return math.ceil(min(channels, most) * (width or own_width) / 8) * 8

        def n(units):
            return max(round(units * depth), 1)

        make = yolov12 if family == 'YOLOv12' else yolov8_and_10
        layers, last = make(w, n, scale, first if family == 'YOLOv12' else family == 'YOLOv10')
        self.joins = {last + 2: 6, last + 5: 4, last + 8: last + 3, last + 11: last}  # index: another map's
        self.levels = (last + 6, last + 9, last + 12)
        layers[last + 13] = Head([w(256), w(512), w(1024)], classes, family != 'YOLOv8', family == 'YOLOv10')
        self.model = nn.ModuleList(layers.get(index, nn.Identity()) for index in range(last + 14))

    def forward(self, x):
        """``(B, 3, H, W)``, RGB of 0 to 1, to what :class:`Head` returns."""
        outs = []
        for index, layer in enumerate(self.model[:-1]):
            if index in self.joins:
                x = torch.cat((x, outs[self.joins[index]]), 1)
            elif isinstance(layer, nn.Identity):
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            else:
                x = layer(x)
            outs.append(x)
        return self.model[-1]([outs[level] for level in self.levels])


def yolov8_and_10(w, n, scale, ten):
    """Layers by index, and the index of the backbone's last."""
    layers = {0: Conv(3, w(64), 3, 2)}

    def stage(index, into, out, units, add):
        if ten and index in CIB_LAYERS[scale]:
            blocks = [CIB(w(out) // 2, large=scale in 'ns') for _ in range(n(units))]
        else:
            blocks = [Bottleneck(w(out) // 2, add) for _ in range(n(units))]
        layers[index] = Stage(sum(map(w, into)), w(out), w(out) // 2, blocks)

    def down(index, into, out, separate):
        layers[index] = SCDown(w(into), w(out)) if ten and separate else Conv(w(into), w(out), 3, 2)

    channels = (64, 128, 256, 512, 1024)
    for i, units in enumerate((3, 6, 6, 3)):
        down(2 * i + 1, channels[i], channels[i + 1], separate=i > 1)
        stage(2 * i + 2, [channels[i + 1]], channels[i + 1], units, add=True)
    layers[9] = SPPF(w(1024))
    if ten:
        layers[10] = PSA(w(1024))
    last = max(layers)
    stage(last + 3, [1024, 512], 512, 3, add=False)
    stage(last + 6, [512, 256], 256, 3, add=False)
    down(last + 7, 256, 256, separate=False)
    stage(last + 9, [256, 512], 512, 3, add=False)
    down(last + 10, 512, 512, separate=True)
    stage(last + 12, [512, 1024], 1024, 3, add=False)
    return layers, last


def yolov12(w, n, scale, first):
    """As the above."""
    large, layers = scale in 'lx', {}

    def c3k2(index, into, out, e, deep):
        width = int(w(out) * e)
        blocks = [C3k(width) if deep else Bottleneck(width, True, width // 2) for _ in range(n(2))]
        layers[index] = Stage(sum(map(w, into)), w(out), width, blocks)

    def attention(index, out, area):
        def block():
            return AreaBlock(w(out) // 2, area, first, 2.0 if not large else 1.2 if first else 1.5)

        pairs = [nn.Sequential(block(), block()) for _ in range(n(4))]
        layers[index] = A2C2f(w(out), w(out), pairs, gamma=large)

    def plain(index, into, out):
        layers[index] = A2C2f(sum(map(w, into)), w(out), [C3k(w(out) // 2) for _ in range(n(2))])

    def down(index, into, out, groups=1):
        layers[index] = Conv(w(into) if into > 3 else into, w(out), 3, 2, groups)

    down(0, 3, 64)
    down(1, 64, 128, groups=1 if first else 2)
    c3k2(2, [128], 256, 0.25, deep=scale in 'mlx')
    down(3, 256, 256, groups=1 if first else 4)
    c3k2(4, [256], 512, 0.25, deep=scale in 'mlx')
    down(5, 512, 512)
    attention(6, 512, area=4)
    down(7, 512, 1024)
    attention(8, 1024, area=1)
    plain(11, [1024, 512], 512)
    plain(14, [512, 512], 256)
    down(15, 256, 256)
    plain(17, [256, 512], 512)
    down(18, 512, 512)
    c3k2(20, [512, 1024], 1024, 0.5, deep=True)
    return layers, 8


def decode(raw):
    """Boxes ``(B, 4, M)``, x1, y1, x2, y2 in pixels, and scores ``(B, K, M)`` of one branch's levels."""
    boxes, scores = [], []
    for level, stride in zip(raw, (8, 16, 32), strict=True):
        bins = level[:, :64].unflatten(1, (4, 16)).softmax(2)
        left, top, right, bottom = (bins * torch.arange(16.0).view(1, 1, 16, 1, 1).to(bins)).sum(2).unbind(1)
        x = torch.arange(level.shape[3]).to(bins) + 0.5
        y = (torch.arange(level.shape[2]).to(bins) + 0.5)[:, None]
        boxes.append(stride * torch.stack((x - left, y - top, x + right, y + bottom), 1).flatten(2))
        scores.append(level[:, 64:].sigmoid().flatten(2))
    return torch.cat(boxes, 2), torch.cat(scores, 2)


def randomise(network, image, seed=0):
    """Random weights, and norms near the statistics of an image, so that every map has values of about one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like):
        return torch.randn(like.shape, generator=generator)

    def set_statistics(norm, inputs):
        (x,) = inputs
        norm.running_mean.copy_(x.mean((0, 2, 3)) + 0.1 * normal(norm.running_mean))
        norm.running_var.copy_(x.var((0, 2, 3)) * torch.rand(norm.weight.shape, generator=generator).add(0.5) + 0.1)
        norm.weight.data = torch.rand(norm.weight.shape, generator=generator) + 0.5
        norm.bias.data = 0.1 * normal(norm.bias)
        norm.num_batches_tracked.fill_(7)

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and not name.endswith('dfl.conv'):
            module.weight.data = normal(module.weight) / module.weight[0].numel() ** 0.5
            if module.bias is not None:
                module.bias.data = normal(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(set_statistics))
        if hasattr(module, 'gamma'):
            module.gamma.data = torch.rand(module.gamma.shape, generator=generator) + 0.5
    with torch.no_grad():
        network.eval()(image)
    for handle in handles:
        handle.remove()
    return network

"""The parts of :mod:`.official_network`, whose attributes have the official names."""

import math

import torch
from torch import nn


class Conv(nn.Module):
    def __init__(self, into, out, kernel=1, stride=1, groups=1, act=True):
        super().__init__()
        self.conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)
        self.act = act

    def forward(self, x):
        x = self.bn(self.conv(x))
        return x * torch.sigmoid(x) if self.act else x


def depthwise(width, kernel=3, stride=1, act=True):
    return Conv(width, width, kernel, stride, groups=width, act=act)


class Bottleneck(nn.Module):
    def __init__(self, width, add, hidden=None):
        super().__init__()
        self.cv1 = Conv(width, hidden or width, 3)
        self.cv2 = Conv(hidden or width, width, 3)
        self.add = add

    def forward(self, x):
        return self.cv2(self.cv1(x)) + (x if self.add else 0)


class C3k(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1 = Conv(width, width // 2)
        self.cv2 = Conv(width, width // 2)
        self.cv3 = Conv(2 * (width // 2), width)
        self.m = nn.Sequential(Bottleneck(width // 2, True), Bottleneck(width // 2, True))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class LargeKernel(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = depthwise(width, 7, act=False)
        self.conv1 = depthwise(width, 3, act=False)

    def forward(self, x):
        x = self.conv(x) + self.conv1(x)
        return x * torch.sigmoid(x)


class CIB(nn.Module):
    def __init__(self, width, large):
        super().__init__()
        middle = LargeKernel(2 * width) if large else depthwise(2 * width)
        self.cv1 = nn.Sequential(
            depthwise(width), Conv(width, 2 * width), middle, Conv(2 * width, width), depthwise(width)
        )

    def forward(self, x):
        return x + self.cv1(x)


class Stage(nn.Module):
    """C2f, C2fCIB and C3k2: two halves of ``width``, units on the second."""

    def __init__(self, into, out, width, units):
        super().__init__()
        self.cv1 = Conv(into, 2 * width)
        self.cv2 = Conv((2 + len(units)) * width, out)
        self.m = nn.ModuleList(units)
        self.width = width

    def forward(self, x):
        maps = list(self.cv1(x).split(self.width, 1))
        for unit in self.m:
            maps.append(unit(maps[-1]))
        return self.cv2(torch.cat(maps, 1))


class SPPF(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1 = Conv(width, width // 2)
        self.cv2 = Conv(4 * (width // 2), width)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        a = self.cv1(x)
        b = self.pool(a)
        c = self.pool(b)
        return self.cv2(torch.cat((a, b, c, self.pool(c)), 1))


class SCDown(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.cv1 = Conv(into, out)
        self.cv2 = depthwise(out, 3, 2, act=False)

    def forward(self, x):
        return self.cv2(self.cv1(x))


def attend(queries, keys, values):
    """Of one head: ``(B, d, N)`` each."""
    weights = torch.einsum('bdi,bdj->bij', queries, keys) / math.sqrt(queries.shape[1])
    return torch.einsum('bij,bdj->bdi', weights.softmax(2), values)


class PartialAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.heads = width // 64
        self.value = width // self.heads
        self.key = self.value // 2
        self.qkv = Conv(width, self.heads * (2 * self.key + self.value), act=False)
        self.proj = Conv(width, width, act=False)
        self.pe = depthwise(width, act=False)

    def forward(self, x):
        outs, values = [], []
        for head in self.qkv(x).chunk(self.heads, 1):
            q, k, v = head.split((self.key, self.key, self.value), 1)
            outs.append(attend(q.flatten(2), k.flatten(2), v.flatten(2)).reshape(v.shape))
            values.append(v)
        return self.proj(torch.cat(outs, 1) + self.pe(torch.cat(values, 1)))


class PSA(nn.Module):
    def __init__(self, width):
        super().__init__()
        half = width // 2
        self.cv1 = Conv(width, width)
        self.cv2 = Conv(width, width)
        self.attn = PartialAttention(half)
        self.ffn = nn.Sequential(Conv(half, 2 * half), Conv(2 * half, half, act=False))

    def forward(self, x):
        a, b = self.cv1(x).chunk(2, 1)
        b = b + self.attn(b)
        b = b + self.ffn(b)
        return self.cv2(torch.cat((a, b), 1))


class AreaAttention(nn.Module):
    def __init__(self, width, area, first):
        super().__init__()
        self.heads, self.area, self.first = width // 32, area, first
        if first:
            self.qkv = Conv(width, 3 * width, act=False)
        else:
            self.qk = Conv(width, 2 * width, act=False)
            self.v = Conv(width, width, act=False)
        self.proj = Conv(width, width, act=False)
        self.pe = depthwise(width, 7 if first else 5, act=False)

    def forward(self, x):
        if self.first:
            triples = [head.chunk(3, 1) for head in self.qkv(x).chunk(self.heads, 1)]
        else:
            q, k = self.qk(x).chunk(2, 1)
            triples = list(zip(*(part.chunk(self.heads, 1) for part in (q, k, self.v(x))), strict=True))
        outs = []
        for triple in triples:
            areas = zip(*(part.flatten(2).chunk(self.area, 2) for part in triple), strict=True)
            outs.append(torch.cat([attend(*area) for area in areas], 2).reshape(triple[2].shape))
        return self.proj(torch.cat(outs, 1) + self.pe(torch.cat([v for _, _, v in triples], 1)))


class AreaBlock(nn.Module):
    def __init__(self, width, area, first, ratio):
        super().__init__()
        hidden = int(width * ratio)
        self.attn = AreaAttention(width, area, first)
        self.mlp = nn.Sequential(Conv(width, hidden), Conv(hidden, width, act=False))

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


class A2C2f(nn.Module):
    def __init__(self, into, out, units, gamma=False):
        super().__init__()
        width = out // 2
        if gamma:
            self.gamma = nn.Parameter(torch.full((out,), 0.01))
        self.cv1 = Conv(into, width)
        self.cv2 = Conv((1 + len(units)) * width, out)
        self.m = nn.ModuleList(units)

    def forward(self, x):
        maps = [self.cv1(x)]
        for unit in self.m:
            maps.append(unit(maps[-1]))
        out = self.cv2(torch.cat(maps, 1))
        return x + self.gamma[:, None, None] * out if hasattr(self, 'gamma') else out


class DFL(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 1, 1, bias=False)
        self.conv.weight.data = torch.arange(16.0, device=self.conv.weight.device).view(1, 16, 1, 1)


class Head(nn.Module):
    def __init__(self, widths, classes, light, dual):
        super().__init__()
        box, hidden = max(16, widths[0] // 4, 64), max(widths[0], min(classes, 100))

        def boxes(width):
            return nn.Sequential(Conv(width, box, 3), Conv(box, box, 3), nn.Conv2d(box, 64, 1))

        def scores(width):
            if light:
                first = nn.Sequential(depthwise(width), Conv(width, hidden))
                second = nn.Sequential(depthwise(hidden), Conv(hidden, hidden))
            else:
                first, second = Conv(width, hidden, 3), Conv(hidden, hidden, 3)
            return nn.Sequential(first, second, nn.Conv2d(hidden, classes, 1))

        self.cv2 = nn.ModuleList(map(boxes, widths))
        self.cv3 = nn.ModuleList(map(scores, widths))
        self.dfl = DFL()
        if dual:
            self.one2one_cv2 = nn.ModuleList(map(boxes, widths))
            self.one2one_cv3 = nn.ModuleList(map(scores, widths))
        self.branches = ('', 'one2one_') if dual else ('',)

    def forward(self, maps):
        """Of every branch, of every level: 64 logits of the sides' bins, then the classes'."""
        raw = {}
        for prefix in self.branches:
            pairs = zip(getattr(self, f'{prefix}cv2'), getattr(self, f'{prefix}cv3'), maps, strict=True)
            raw[prefix] = [torch.cat((boxes(x), scores(x)), 1) for boxes, scores, x in pairs]
        return raw

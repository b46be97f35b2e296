"""The YOLOs' blocks as their papers draw them, with a module's weights: slow, and obviously right.

Every layer is named with the stride, the groups and the activation that it should have; nothing is asked of the module
but weights and statistics. In evaluation mode.
"""

import math

import torch
import torch.nn.functional as F


def conv(layer, x, stride=1, groups=1, act=True, eps=0.001):
    """Convolution, batch norm and SiLU."""
    weight, norm = layer.conv.weight, layer.bn
    assert layer.conv.bias is None
    x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
    mean, variance, scale, shift = (
        values.view(-1, 1, 1) for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    x = (x - mean) / (variance + eps).sqrt() * scale + shift
    return x / (1 + (-x).exp()) if act else x


def depthwise(layer, x, **options):
    return conv(layer, x, groups=x.shape[1], **options)


def bottleneck(block, x, shortcut):
    out = conv(block.conv2, conv(block.conv1, x))
    return x + out if shortcut else out


def c2f(module, x, block):
    """``block(module, x)``: what its blocks should be."""
    both = conv(module.split, x)
    half = both.shape[1] // 2
    kept = [both[:, :half], both[:, half:]]
    last = kept[1]
    for part in module.blocks:
        last = block(part, last)
        kept.append(last)
    return conv(module.fuse, torch.cat(kept, dim=1))


def c3k(module, x, shortcut):
    deep = conv(module.deep, x)
    for block in module.blocks:
        deep = bottleneck(block, deep, shortcut)
    return conv(module.fuse, torch.cat([deep, conv(module.shallow, x)], dim=1))


def largest(x, side):
    """The largest value in a window of odd side around every position, cut at the borders."""
    batch, channels, height, width = x.shape
    reach = side // 2
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            window = x[:, :, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
            out[:, :, i, j] = window.flatten(2).max(dim=2).values
    return out


def sppf(module, x):
    """Three poolings of 5 in a row are poolings of 5, 9 and 13."""
    x = conv(module.reduce, x)
    return conv(module.fuse, torch.cat([x, largest(x, 5), largest(x, 9), largest(x, 13)], dim=1))


def scdown(module, x):
    return depthwise(module.depthwise, conv(module.pointwise, x), stride=2, act=False)


def large_kernel(module, x):
    x = depthwise(module.large, x, act=False) + depthwise(module.small, x, act=False)
    return x / (1 + (-x).exp())


def cib(module, x, shortcut, large):
    first, widen, middle, narrow, last = module.layers
    y = conv(widen, depthwise(first, x))
    y = large_kernel(middle, y) if large else depthwise(middle, y)
    y = depthwise(last, conv(narrow, y))
    return x + y if shortcut else y


def attend(queries, keys, values, areas=1):
    """One image, one area, one head, one query at a time.

    Queries, keys and values: ``(B, h, d, H, W)``; an area is a run of positions, row by row. Returns ``(B, C, H, W)``.
    """
    batch, heads, width, rows, columns = values.shape
    queries, keys, values = queries.flatten(3), keys.flatten(3), values.flatten(3)
    out = torch.zeros_like(values)
    count = rows * columns // areas
    for image in range(batch):
        for area in range(areas):
            places = range(area * count, (area + 1) * count)
            for head in range(heads):
                for i in places:
                    query = queries[image, head, :, i]
                    scores = [query @ keys[image, head, :, j] / math.sqrt(len(query)) for j in places]
                    weights = [score.exp() for score in scores]
                    total = sum(weights)
                    pairs = zip(weights, places, strict=True)
                    out[image, head, :, i] = sum(weight / total * values[image, head, :, j] for weight, j in pairs)
    return out.reshape(batch, heads * width, rows, columns)


def area_attention(module, x, heads, areas):
    """Section 3.2 of YOLOv12: q, k and v by 1x1; heads are neighbouring channels."""
    both, values = conv(module.queries_keys, x, act=False), conv(module.values, x, act=False)
    channels = x.shape[1]
    split = [part.unflatten(1, (heads, -1)) for part in (both[:, :channels], both[:, channels:], values)]
    mixed = attend(*split, areas) + depthwise(module.position, values, act=False)
    return conv(module.out, mixed, act=False)


def area_block(module, x, heads, areas):
    x = x + area_attention(module.attention, x, heads, areas)
    first, second = module.mlp
    return x + conv(second, conv(first, x), act=False)


def a2c2f(module, x, heads, areas=None, gamma=None):
    kept = [conv(module.reduce, x)]
    for block in module.blocks:
        out = kept[-1]
        if areas is None:
            out = c3k(block, out, shortcut=True)
        else:
            assert len(block) == 2
            for half in block:
                out = area_block(half, out, heads, areas)
        kept.append(out)
    out = conv(module.fuse, torch.cat(kept, dim=1))
    return out if gamma is None else x + gamma.view(-1, 1, 1) * out


def psa(module, x, heads):
    """Fig. 3c of YOLOv10: half of the channels attend; queries and keys are half as wide as values."""
    both = conv(module.split, x)
    width = both.shape[1] // 2
    passive, active = both[:, :width], both[:, width:]
    attention = module.attention
    head = width // heads
    packed = conv(attention.queries_keys_values, active, act=False)
    # of every head: half a width of queries, half a width of keys, a width of values
    parts = [packed[:, i * 2 * head : (i + 1) * 2 * head] for i in range(heads)]
    queries = torch.stack([part[:, : head // 2] for part in parts], dim=1)
    keys = torch.stack([part[:, head // 2 : head] for part in parts], dim=1)
    values = torch.stack([part[:, head:] for part in parts], dim=1)
    position = depthwise(attention.position, values.flatten(1, 2), act=False)
    active = active + conv(attention.out, attend(queries, keys, values) + position, act=False)
    first, second = module.mlp
    active = active + conv(second, conv(first, active), act=False)
    return conv(module.fuse, torch.cat([passive, active], dim=1))

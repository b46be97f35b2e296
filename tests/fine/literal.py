"""FINE written out as its equations say, with loops over pixels, heads and tokens: slow, and obviously right."""

import math

import torch


def average_tokens(x, kernel):
    """Eq. 4 with average pooling; a ragged edge is averaged over the pixels that exist."""
    batch, channels, height, width = x.shape
    rows = []
    for top in range(0, height, kernel):
        row = []
        for left in range(0, width, kernel):
            pixels = [
                x[:, :, i, j]
                for i in range(top, min(top + kernel, height))
                for j in range(left, min(left + kernel, width))
            ]
            row.append(sum(pixels) / len(pixels))
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


def project(layers, token):
    """One token, ``(C,)``, through one linear map after the other, with GELU where a layer has no weight."""
    for layer in layers:
        if hasattr(layer, 'weight'):
            token = layer.weight @ token + layer.bias
        else:
            token = 0.5 * token * (1 + torch.erf(token / math.sqrt(2)))
    return token


def attention(module, low, high):
    """Eqs. 5-7, one image, one head, one query at a time."""
    batch, channels, height, width = low.shape
    width_of_head = channels // module.num_heads
    images = []
    for image in range(batch):
        queries = [project(module.query, low[image, :, i, j]) for i in range(height) for j in range(width)]
        pixels = [high[image, :, i, j] for i in range(high.shape[2]) for j in range(high.shape[3])]
        keys = [project(module.key, pixel) for pixel in pixels]
        values = [project(module.value, pixel) for pixel in pixels]
        tokens = []
        for query in queries:
            heads = []
            for head in range(module.num_heads):
                part = slice(head * width_of_head, (head + 1) * width_of_head)
                scores = [query[part] @ key[part] / math.sqrt(width_of_head) for key in keys]
                weights = [score.exp() for score in scores]
                total = sum(weights)
                heads.append(sum(w / total * value[part] for w, value in zip(weights, values, strict=True)))
            tokens.append(project(module.out, torch.cat(heads)))
        images.append(torch.stack(tokens, dim=-1).reshape(channels, height, width))
    return torch.stack(images)


def fine(module, low, high):
    """Eqs. 4-9."""
    coarse = attention(
        module.attention, average_tokens(low, module.low_kernel), average_tokens(high, module.high_kernel)
    )
    out = torch.empty_like(low)
    columns = []
    for i in range(low.shape[2]):
        for j in range(low.shape[3]):
            modulation = coarse[:, :, i // module.low_kernel, j // module.low_kernel]
            columns.append(low[:, :, i, j] * modulation + low[:, :, i, j])
    out = torch.stack(columns, dim=-1).reshape(low.shape)
    return out

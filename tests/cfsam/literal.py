"""CFSAM written out as the paper's section 3 says, with loops over pixels, levels, parts and tokens: slow, and plain.

It takes weights by their names in a checkpoint and shares no code with the package.
"""

import math

import torch


def cfsam(weights, maps, num_parts, num_layers, num_heads, levels, stages):
    """Section 3: maps ``(B, Ci, Hi, Wi)`` to as many of the same shapes, one image after the other."""
    images = [
        one_image(weights, [x[image] for x in maps], num_parts, num_layers, num_heads, levels, stages)
        for image in range(maps[0].shape[0])
    ]
    return [torch.stack([image[level] for image in images]) for level in range(len(maps))]


def one_image(weights, maps, num_parts, num_layers, num_heads, levels, stages):
    """Eqs. 1 to 5 for one image; a sequence is a list of tokens ``(C,)``."""
    sequence = []  # eq. 1
    for index, level in enumerate(levels):
        local = convolve_3x3(maps[level], weights[f'lfe.{index}.0.conv.weight'], weights[f'lfe.{index}.0.conv.bias'])
        sequence += [linear(pixel, weights, f'lfe.{index}.1') for pixel in pixels(local)]
    length = len(sequence)
    if 'gfe' in stages:
        longer = math.ceil(length / num_parts) * num_parts
        before = interpolate(sequence, longer)
        parts = [[before[token] for token in range(part, longer, num_parts)] for part in range(num_parts)]  # eq. 2
        parts = [transformer(part, weights, num_layers, num_heads) for part in parts]  # eq. 3
        after = [parts[token % num_parts][token // num_parts] for token in range(longer)]  # eq. 4
        if 'ffr' in stages:  # eq. 5
            after = [linear(torch.cat([x, y]), weights, 'fusion') for x, y in zip(before, after, strict=True)]
        sequence = interpolate(after, length)
    outs = list(maps)
    for index, level in enumerate(levels):
        height, width = maps[level].shape[1:]
        own, sequence = sequence[: height * width], sequence[height * width :]
        own = [linear(token, weights, f'recover.{index}') for token in own]
        rows = [torch.stack(own[row * width : (row + 1) * width], dim=1) for row in range(height)]
        outs[level] = torch.stack(rows, dim=1)
    assert not sequence
    return outs


def pixels(x):
    """``(C, H, W)`` as a list, row by row."""
    return [x[:, i, j] for i in range(x.shape[1]) for j in range(x.shape[2])]


def linear(token, weights, name):
    """A linear layer or a 1x1 convolution of one token."""
    weight, bias = weights[f'{name}.weight'], weights[f'{name}.bias']
    return weight.reshape(len(bias), -1) @ token + bias


def convolve_3x3(x, weight, bias):
    """One output pixel at a time; beyond the edge there are zeros."""
    height, width = x.shape[1:]
    rows = []
    for i in range(height):
        row = []
        for j in range(width):
            pixel = bias
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < height and 0 <= j + dj < width:
                        pixel = pixel + weight[:, :, di + 1, dj + 1] @ x[:, i + di, j + dj]
            row.append(pixel)
        rows.append(torch.stack(row, dim=1))
    return torch.stack(rows, dim=1)


def interpolate(sequence, length):
    """Linearly, the first and the last token kept; the place of each new token is an exact fraction."""
    last, new_last = len(sequence) - 1, length - 1
    out = []
    for token in range(length):
        left, rest = divmod(token * last, new_last) if new_last else (0, 0)
        share = rest / new_last if new_last else 0.0
        out.append((1 - share) * sequence[left] + share * sequence[min(left + 1, last)])
    return out


def transformer(sequence, weights, num_layers, num_heads):
    """Pre-norm layers over the tokens of one part."""
    for index in range(num_layers):
        name = f'gfe.transformer.{index}'
        added = attention([norm(token, weights, f'{name}.norm1') for token in sequence], weights, name, num_heads)
        sequence = [token + more for token, more in zip(sequence, added, strict=True)]
        added = [feedforward(norm(token, weights, f'{name}.norm2'), weights, name) for token in sequence]
        sequence = [token + more for token, more in zip(sequence, added, strict=True)]
    return sequence


def norm(token, weights, name):
    centred = token - token.mean()
    return weights[f'{name}.weight'] * centred / ((centred**2).mean() + 1e-5).sqrt() + weights[f'{name}.bias']


def feedforward(token, weights, name):
    hidden = linear(token, weights, f'{name}.feedforward.0')
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    return linear(hidden, weights, f'{name}.feedforward.3')


def attention(sequence, weights, name, num_heads):
    """One query and one head at a time."""
    channels = len(sequence[0])
    size = channels // num_heads
    queries, keys, values = zip(
        *[linear(token, weights, f'{name}.attention.qkv').split(channels) for token in sequence], strict=True
    )
    out = []
    for query in queries:
        heads = []
        for head in range(num_heads):
            own = slice(head * size, (head + 1) * size)
            scores = [(query[own] * key[own]).sum() / math.sqrt(size) for key in keys]
            exponentials = [score.exp() for score in scores]
            total = sum(exponentials)
            heads.append(sum(e / total * value[own] for e, value in zip(exponentials, values, strict=True)))
        out.append(linear(torch.cat(heads), weights, f'{name}.attention.proj'))
    return out

"""HCSS-Fusion (section 3.2) and DSAIFI (3.4) written out as the paper says, with loops over pixels, images, rows and
ranks: slow, and plain.

It takes weights by their names in a checkpoint and shares no code with the package. What the paper leaves open is as
papers/README.md and the docstrings of the modules state it.
"""

import math

import torch
import torch.nn.functional as F


def sub(weights, prefix):
    """The weights of one part, by their names within it."""
    return {name[len(prefix) + 1 :]: x for name, x in weights.items() if name.startswith(f'{prefix}.')}


def batch_norm(x, weights, training):
    """Over images and pixels; in evaluation by the statistics that were kept."""
    if training:
        mean = x.mean((0, 2, 3))
        variance = ((x - mean[:, None, None]) ** 2).mean((0, 2, 3))
    else:
        mean, variance = weights['running_mean'], weights['running_var']
    x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return x * weights['weight'][:, None, None] + weights['bias'][:, None, None]


def layer_norm(token, weights):
    centred = token - token.mean()
    return weights['weight'] * centred / ((centred**2).mean() + 1e-5).sqrt() + weights['bias']


def rms_norm(x, weights):
    """Of every position, over its channels."""
    return weights['weight'][:, None, None] * x / ((x**2).mean(1, keepdim=True) + 1e-6).sqrt()


def pointwise(x, weights):
    """A 1x1 convolution."""
    kernel = weights['weight']
    out = torch.einsum('oi,bihw->bohw', kernel.reshape(kernel.shape[:2]), x)
    return out + weights['bias'][:, None, None] if 'bias' in weights else out


def depthwise(x, kernel, bias=None):
    """One tap at a time; beyond the edge there are zeros."""
    side, (height, width) = kernel.shape[-1], x.shape[2:]
    padded = F.pad(x, [side // 2] * 4)
    out = 0.0 if bias is None else bias[:, None, None]
    for i in range(side):
        for j in range(side):
            out = out + kernel[:, 0, i, j][:, None, None] * padded[:, :, i : i + height, j : j + width]
    return out


# Section 3.2 ----------------------------------------------------------------------------------------------------------


def pixels_in_order(direction, height, width):
    """Where a scan comes by, first to last."""
    by_rows = [(i, j) for i in range(height) for j in range(width)]
    by_columns = [(i, j) for j in range(width) for i in range(height)]
    return {'right': by_rows, 'left': by_rows[::-1], 'down': by_columns, 'up': by_columns[::-1]}[direction]


def scan(weights, value, directions, state_channels):
    """Eq. 2, one direction, one head and one pixel after the other: ``(B, D * P, H, W)`` to the same."""
    batch, inner, height, width = value.shape
    heads = len(weights['skip'])
    size = inner // heads
    selected = pointwise(value, sub(weights, 'select'))
    rows = 2 * state_channels + heads
    total = torch.zeros_like(value)
    for number, direction in enumerate(directions):
        own = selected[:, number * rows : (number + 1) * rows]
        query, key, steps = own[:, :state_channels], own[:, state_channels : 2 * state_channels], own[:, -heads:]
        seen = [[None] * width for _ in range(height)]
        states = [value.new_zeros(batch, size, state_channels) for _ in range(heads)]
        for i, j in pixels_in_order(direction, height, width):
            outs = []
            for head in range(heads):
                step = (1 + (steps[:, head, i, j] + weights['step_bias'][number, head]).exp()).log()
                rate = -weights['log_rate'][number, head].exp()
                token = value[:, head * size : (head + 1) * size, i, j]
                driven = torch.einsum('b,bp,bn->bpn', step, token, key[:, :, i, j])
                states[head] = (rate * step).exp()[:, None, None] * states[head] + driven
                outs.append(torch.einsum('bpn,bn->bp', states[head], query[:, :, i, j]))
            seen[i][j] = torch.cat(outs, dim=1)
        total = total + torch.stack([torch.stack(row, dim=2) for row in seen], dim=2)
    return total + value * weights['skip'].repeat_interleave(size)[:, None, None]


def ss2d(weights, x, directions, state_channels):
    value = pointwise(x, sub(weights, 'in_proj'))
    value = depthwise(value, weights['local.conv.weight'], weights['local.conv.bias'])
    value = value / (1 + (-value).exp())
    out = scan(weights, value, directions, state_channels)
    return pointwise(rms_norm(out, sub(weights, 'norm')), sub(weights, 'out_proj'))


def hcss_fusion(weights, x, directions, state_channels, training=False):
    """Eqs. 3 to 6, fig. 2."""

    def conv_norm(name, maps):
        return batch_norm(pointwise(maps, sub(weights, f'{name}.conv')), sub(weights, f'{name}.bn'), training)

    local = batch_norm(depthwise(x, weights['local.conv.weight']), sub(weights, 'local.bn'), training)  # eq. 3
    context = ss2d(sub(weights, 'ss2d'), x, directions, state_channels)
    united = local + context  # eq. 4
    average = sum(united[:, c] for c in range(united.shape[1])) / united.shape[1]
    largest = united[:, 0]
    for c in range(1, united.shape[1]):
        largest = torch.maximum(largest, united[:, c])
    descriptors = torch.stack([average, largest], dim=1)
    masks = []  # eq. 5
    for kernel, bias in zip(weights['masks.weight'], weights['masks.bias'], strict=True):
        logits = depthwise(descriptors, kernel[:, None]).sum(1) + bias
        masks.append(1 / (1 + (-logits).exp()))
    first, second = (mask[:, None] for mask in masks)
    return first * conv_norm('local_proj', local) + second * conv_norm('global_proj', context)  # eq. 6


def hcss_block(weights, x, directions, state_channels, training=False):
    """The backbone's block, which is ours: the fusion of the normed map, then two 1x1, both in residual sums."""
    normed = batch_norm(x, sub(weights, 'norm'), training)
    x = x + hcss_fusion(sub(weights, 'fusion'), normed, directions, state_channels, training)
    hidden = x
    for layer in range(2):
        hidden = pointwise(hidden, sub(weights, f'feedforward.{layer}.conv'))
        hidden = batch_norm(hidden, sub(weights, f'feedforward.{layer}.bn'), training)
        hidden = hidden / (1 + (-hidden).exp()) if layer == 0 else hidden
    return x + hidden


# Section 3.4 ----------------------------------------------------------------------------------------------------------


def linear(token, weights):
    weight = weights['weight']
    return weight.reshape(len(weight), -1) @ token + weights['bias']


def silu(x):
    return x / (1 + (-x).exp())


def gate(weights, image):
    """Eq. 8 for one image ``(C, H, W)``: the share of keys that it retains."""
    means, deviations = [], []
    for channel in image:
        mean = channel.sum() / channel.numel()
        means.append(mean)
        deviations.append((((channel - mean) ** 2).sum() / channel.numel() + 1e-6).sqrt())
    hidden = silu(linear(torch.stack(means + deviations), sub(weights, 'gate.0')))
    return 1 / (1 + (-linear(hidden, sub(weights, 'gate.2'))[0]).exp())


def number_of_keys(rho, count):
    """Eqs. 9 and 10; at least one."""
    return max(1, math.floor(rho.item() * count))


def strongest(scores, number):
    """Places of the largest scores of a row, by selection, one rank after the other."""
    left = list(range(len(scores)))
    chosen = []
    for _ in range(number):
        best = max(left, key=lambda j: scores[j].item())
        left.remove(best)
        chosen.append(best)
    return chosen


def sparse_attention(queries, keys, values, number):
    """Eqs. 11 to 14 for one head of one image: lists of N vectors."""
    outs = []
    for query in queries:
        scores = [(query * key).sum() / math.sqrt(len(query)) for key in keys]  # eq. 11
        retained = strongest(scores, number)  # eq. 12
        masked = torch.stack([x if j in retained else x * 0 - math.inf for j, x in enumerate(scores)])  # eq. 13
        weights = torch.softmax(masked, dim=0)  # eq. 14
        outs.append(sum(weights[j] * values[j] for j in retained))
    return outs


def agsa(weights, x, active, num_heads=1):
    """``(B, C, H, W)`` to the same; ``active`` channels attend."""
    height, width = x.shape[2:]
    size, images = active // num_heads, []
    for image in x:
        number = number_of_keys(gate(weights, image), height * width)
        tokens = [image[:, i, j] for i in range(height) for j in range(width)]
        projected = [linear(layer_norm(token[:active], sub(weights, 'norm')), sub(weights, 'qkv')) for token in tokens]
        attended = []  # of every head, N vectors
        for head in range(num_heads):
            query, key, value = (
                [p[part * active + head * size : part * active + (head + 1) * size] for p in projected]
                for part in range(3)
            )
            attended.append(sparse_attention(query, key, value, number))
        outs = []
        for j, token in enumerate(tokens):
            whole = torch.cat([head[j] for head in attended] + [token[active:]])
            outs.append(linear(silu(whole), sub(weights, 'proj.1')))  # eq. 15
        images.append(torch.stack(outs, dim=1).unflatten(1, (height, width)))
    return torch.stack(images)


def dsaifi(weights, x, active, num_heads=1):
    """Fig. 4: AGSA, residual, norm, two convolutions with a GELU between them, residual, norm; no dropout."""

    def normed(maps, name):
        rows = [
            torch.stack(
                [
                    torch.stack([layer_norm(image[:, i, j], sub(weights, name)) for j in range(maps.shape[3])], dim=1)
                    for i in range(maps.shape[2])
                ],
                dim=1,
            )
            for image in maps
        ]
        return torch.stack(rows)

    x = normed(x + agsa(sub(weights, 'agsa'), x, active, num_heads), 'norm1')
    hidden = convolve(x, sub(weights, 'feedforward.0'))
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    return normed(x + convolve(hidden, sub(weights, 'feedforward.3')), 'norm2')


def convolve(x, weights):
    """One tap at a time; beyond the edge there are zeros."""
    kernel, (height, width) = weights['weight'], x.shape[2:]
    side = kernel.shape[-1]
    padded, out = F.pad(x, [side // 2] * 4), weights['bias'][:, None, None]
    for i in range(side):
        for j in range(side):
            out = out + torch.einsum('oc,bchw->bohw', kernel[:, :, i, j], padded[:, :, i : i + height, j : j + width])
    return out

"""HMPE's parts written out as the paper's section 3 says, with loops over positions, taps, classes and objects.

Slow and plain. Weights are taken by their names in a checkpoint; no code is shared with the package.
"""

import math

import torch

# Linear-Snake convolution, section 3.3 --------------------------------------------------------------------------------


def snake_offsets(steps):
    """Eqs. 10 and 11: the sum of the steps from the centre to a tap; ``(B, T - 1, H, W)`` to ``(B, T, H, W)``."""
    half = steps.shape[1] // 2
    before, after = [steps[:, i] for i in range(half)], [steps[:, half + i] for i in range(half)]
    zero = torch.zeros_like(steps[:, 0])
    left, right = [], []
    for distance in range(1, half + 1):
        left.append(sum(before[half - c] for c in range(1, distance + 1)))
        right.append(sum(after[c - 1] for c in range(1, distance + 1)))
    return torch.stack([*reversed(left), zero, *right], dim=1)


def snake(x, offsets, weight, axis, groups=1):
    """One output position and one tap at a time; offsets ``(B, T, H, W)`` lie across the axis."""
    batch, _, height, width = x.shape
    outputs, _, taps = weight.shape
    out = []
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                total = x.new_zeros(outputs)
                for tap in range(taps):
                    along, across = tap - (taps - 1) // 2, offsets[b, tap, i, j]
                    place = (i + across, j + along) if axis == 'x' else (i + along, j + across)
                    total = total + in_groups(weight[:, :, tap], bilinear(x[b], *place), groups)
                out.append(total)
    return torch.stack(out).view(batch, height, width, outputs).permute(0, 3, 1, 2)


def in_groups(matrix, vector, groups):
    """Every group of outputs sees its group of inputs."""
    parts = zip(matrix.chunk(groups), vector.chunk(groups), strict=True)
    return torch.cat([part @ own for part, own in parts])


def bilinear(image, row, column):
    """A sample ``(C,)`` of ``(C, H, W)`` between four pixels; beyond the edge there are zeros."""
    top, left = (math.floor(float(place)) for place in (row, column))
    down, right = row - top, column - left
    total = torch.zeros_like(image[:, 0, 0])
    for i, vertical in ((top, 1 - down), (top + 1, down)):
        for j, horizontal in ((left, 1 - right), (left + 1, right)):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                total = total + vertical * horizontal * image[:, i, j]
    return total


# Heatmaps, section 3.1 ------------------------------------------------------------------------------------------------


def derivatives(y, activations):
    """The first three derivatives of a scalar function by each activation on its own, ``(C, H, W)`` each."""
    a = activations.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad(y(a), a, create_graph=True)
    orders = [torch.zeros_like(activations) for _ in range(3)]
    for k in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                value = first[k, i, j]
                orders[0][k, i, j] = value.detach()
                for order in (1, 2):
                    if not value.requires_grad:
                        break
                    (gradient,) = torch.autograd.grad(value, a, create_graph=True, allow_unused=True)
                    if gradient is None:
                        break
                    value = gradient[k, i, j]
                    orders[order][k, i, j] = value.detach()
    return orders


def eqs_1_to_3(y, activations):
    """The map ``(H, W)`` of a scalar function of the activations ``(C, H, W)``."""
    first, second, third = derivatives(y, activations)
    channels, height, width = activations.shape
    beta = []
    for k in range(channels):
        total = 0.0
        for i in range(height):
            for j in range(width):
                alpha = second[k, i, j] + third[k, i, j]  # eq. 1
                total = total + alpha * first[k, i, j].clamp(min=0)  # eq. 2
        beta.append(total)
    heat = activations.new_zeros(height, width)
    for i in range(height):
        for j in range(width):
            heat[i, j] = sum(beta[k] * activations[k, i, j] for k in range(channels)).clamp(min=0)  # eq. 3
    return heat.detach()


def score_of(scores, labels, c):
    """y of class c: exp(s) over the positions of its objects; of ``(K, H, W)`` and ``(H, W)``."""
    total = scores.new_zeros(())
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            if labels[i, j] == c:
                total = total + scores[c, i, j].exp()
    return total


def cost_of(boxes, targets, labels):
    """y of the boxes: exp(L) over the objects' positions, L the Huber loss; of ``(4, H, W)`` twice and ``(H, W)``."""
    total = boxes.new_zeros(())
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            if labels[i, j] >= 0:
                total = total + sum(huber(boxes[n, i, j] - targets[n, i, j]) for n in range(4)).exp()
    return total


def huber(error):
    return error**2 / 2 if error.abs() < 1 else error.abs() - 0.5


def heatmap_of_classes(score, activations, labels, num_classes):
    """One class after the other, each over its largest value, and of these the hottest; for one image."""
    heat = torch.zeros(labels.shape, dtype=activations.dtype)
    for c in range(num_classes):
        if (labels == c).any():
            own = eqs_1_to_3(lambda a, c=c: score_of(score(a), labels, c), activations)
            heat = torch.maximum(heat, normalised(own))
    return heat


def heatmap_of_boxes(regress, activations, targets, labels):
    """For one image."""
    if not (labels >= 0).any():
        return torch.zeros(labels.shape, dtype=activations.dtype)
    return normalised(eqs_1_to_3(lambda a: cost_of(regress(a), targets, labels), activations))


def one_pass(values, own, activations):
    """Eqs. 1 to 3 of the sum of exp(s) over the positions ``own``, s linear in each activation: one backward pass.

    ``values`` maps activations ``(C, H, W)`` to every position's s.
    """
    a = activations.detach().clone().requires_grad_()
    s = values(a)
    (slope,) = torch.autograd.grad(sum(s[i, j] for i, j in own.nonzero().tolist()), a)
    heat = torch.zeros_like(activations[0])
    for k in range(len(activations)):
        beta = 0.0
        for i, j in own.nonzero().tolist():
            y, g = math.exp(s[i, j].item()), slope[k, i, j].item()
            beta += (y * g**2 + y * g**3) * max(y * g, 0.0)
        heat += beta * activations[k]
    return heat.clamp(min=0)


def heatmap_by_one_pass(score, activations, labels, num_classes):
    """As :func:`heatmap_of_classes`."""
    heat = torch.zeros(labels.shape, dtype=activations.dtype)
    for c in range(num_classes):
        if (labels == c).any():
            own = one_pass(lambda a, c=c: score(a)[c], labels == c, activations)
            heat = torch.maximum(heat, normalised(own))
    return heat


def box_heatmap_by_one_pass(regress, activations, targets, labels):
    """As :func:`heatmap_of_boxes`."""
    if not (labels >= 0).any():
        return torch.zeros(labels.shape, dtype=activations.dtype)

    def values(a):
        boxes, losses = regress(a), [[None] * labels.shape[1] for _ in range(labels.shape[0])]
        for i in range(labels.shape[0]):
            for j in range(labels.shape[1]):
                losses[i][j] = sum(huber(boxes[n, i, j] - targets[n, i, j]) for n in range(4))
        return torch.stack([torch.stack(row) for row in losses])

    return normalised(one_pass(values, labels >= 0, activations))


def evened_out(heat, owners):
    """Every object's positions over the object's largest value."""
    out = heat.clone()
    for n in owners.unique().tolist():
        largest = heat[owners == n].max()
        if n >= 0 and largest > 0:
            out[owners == n] = heat[owners == n] / largest
    return out


def normalised(heat):
    return heat / heat.max() if heat.max() > 0 else heat


def assign(boxes, labels, height, width, size):
    """Objects and labels ``(H, W)``, logarithms of distances ``(4, H, W)``; ``size`` is the padded batch's."""
    cell_height, cell_width = size[0] / height, size[1] / width
    owners, classes = torch.full((height, width), -1), torch.full((height, width), -1)
    targets = torch.zeros(4, height, width)
    for i in range(height):
        for j in range(width):
            x, y = (j + 0.5) * cell_width, (i + 0.5) * cell_height
            candidates = []
            for n, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                row = min(max(math.floor((y1 + y2) / 2 / cell_height), 0), height - 1)
                column = min(max(math.floor((x1 + x2) / 2 / cell_width), 0), width - 1)
                if (x1 < x < x2 and y1 < y < y2) or (i, j) == (row, column):
                    candidates.append(((x2 - x1) * (y2 - y1), n))
            if candidates:
                n = min(candidates)[1]
                x1, y1, x2, y2 = boxes[n].tolist()
                owners[i, j], classes[i, j] = n, labels[n]
                sides = (x - x1) / cell_width, (y - y1) / cell_height, (x2 - x) / cell_width, (y2 - y) / cell_height
                targets[:, i, j] = torch.tensor([math.log(max(side, 0.1)) for side in sides])
    return owners, classes, targets


# Positions, section 3.2 -----------------------------------------------------------------------------------------------


def position_code(row, column, channels, temperature=10000.0):
    """Sines and cosines of one place, rows before columns; rows and columns need not be whole numbers."""
    count = channels // 4
    rates = [temperature ** (-d / count) for d in range(count)]
    parts = [[f(place * rate) for rate in rates] for place in (row, column) for f in (math.sin, math.cos)]
    return torch.tensor(sum(parts, []), dtype=torch.float64)


def position_codes(sizes, channels, temperature=10000.0):
    """``(H * W, C)`` per level; a place is that of its cell's middle, in cells of the coarsest level."""
    rows, columns = sizes[-1]
    levels = []
    for height, width in sizes:
        levels.append(
            torch.stack(
                [
                    position_code(
                        (i + 0.5) / height * rows - 0.5, (j + 0.5) / width * columns - 0.5, channels, temperature
                    )
                    for i in range(height)
                    for j in range(width)
                ]
            )
        )
    return levels


def masked(code, mask):
    """Eq. 7, one position at a time."""
    return torch.stack([code[n] if mask[n] else torch.zeros_like(code[n]) for n in range(len(code))])


# MOHFE, section 3.2.1 -------------------------------------------------------------------------------------------------


def mohfe(weights, maps, classes, boxes, mixed, mask, num_heads, max_tokens, positions=True):
    """One image after the other: maps ``(B, C, H, W)`` per level to the same."""
    images = [
        one_image(weights, *([x[b] for x in part] for part in (maps, classes, boxes, mixed, mask)), num_heads,
                  max_tokens, positions)
        for b in range(len(maps[0]))
    ]  # fmt: skip
    return [torch.stack([image[level] for image in images]) for level in range(len(maps))]


def one_image(weights, maps, classes, boxes, mixed, mask, num_heads, max_tokens, positions):
    channels = len(maps[0])
    codes = position_codes([x.shape[1:] for x in maps], channels)
    picked, tokens, heated, located = [], [], [], []
    for level, x in enumerate(maps):
        width = x.shape[2]
        order = sorted(range(x.shape[1] * width), key=lambda n: -mixed[level].flatten()[n].item())
        for n in order[:max_tokens]:
            i, j = divmod(n, width)
            token = x[:, i, j]
            e_class = linear(classes[level][0, i, j] * token, weights, 'class_proj')
            e_box = linear(boxes[level][0, i, j] * token, weights, 'box_proj')
            code = codes[level][n] if positions and mask[level][0, i, j] else torch.zeros(channels)
            picked.append((level, i, j))
            tokens.append(token)
            heated.append(torch.cat([e_class, e_box]))
            located.append(heated[-1] + code)
    tokens = torch.stack(tokens) + attention(torch.stack(located), torch.stack(heated), weights, num_heads)  # eq. 5
    outs = [x.clone() for x in maps]
    for (level, i, j), token in zip(picked, tokens, strict=True):
        centred = token - token.mean()
        token_ = centred / ((centred**2).mean() + 1e-5).sqrt() * weights['norm.weight'] + weights['norm.bias']
        hidden = linear(token_, weights, 'feedforward.0')
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        outs[level][:, i, j] = token + linear(hidden, weights, 'feedforward.3')
    return outs


def linear(token, weights, name):
    return weights[f'{name}.weight'] @ token + weights[f'{name}.bias']


def attention(located, heated, weights, num_heads):
    """Queries and keys know positions, values do not; ``(N, C)`` to ``(N, C)``."""
    matrices, biases = weights['self_attn.in_proj_weight'].chunk(3), weights['self_attn.in_proj_bias'].chunk(3)
    query, key, value = (
        x @ matrix.T + bias for x, matrix, bias in zip((located, located, heated), matrices, biases, strict=True)
    )
    size = query.shape[1] // num_heads
    heads = []
    for head in range(num_heads):
        own = slice(head * size, (head + 1) * size)
        scores = query[:, own] @ key[:, own].T / math.sqrt(size)
        shares = scores.exp() / scores.exp().sum(1, keepdim=True)
        heads.append(shares @ value[:, own])
    return torch.cat(heads, 1) @ weights['self_attn.out_proj.weight'].T + weights['self_attn.out_proj.bias']


# HIDQ, section 3.2.2 --------------------------------------------------------------------------------------------------


def hidq(weights, memory, heat, count):
    """Eq. 8, one image and one query at a time; queries and their places."""
    queries, places = [], []
    for image, warmth in zip(memory, heat, strict=True):
        order = sorted(range(len(image)), key=lambda n: -warmth[n].item())[:count]
        own = []
        for n in order:
            centred = image[n] - image[n].mean()
            token = centred / ((centred**2).mean() + 1e-5).sqrt() * weights['norm.weight'] + weights['norm.bias']
            own.append(linear(token * warmth[n], weights, 'query_proj'))
        queries.append(torch.stack(own))
        places.append(torch.tensor(order))
    return torch.stack(queries), torch.stack(places)

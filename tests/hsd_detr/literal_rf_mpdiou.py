"""RF-MPDIoU's loss by its formulas, eqs. 16 to 21, for one pair of boxes in Python's numbers."""


def loss(pred, target, size, focal=(0.0, 0.95), alpha=1.0, corners=True):
    x1, y1, x2, y2 = pred
    u1, v1, u2, v2 = target
    width, height = min(x2, u2) - max(x1, u1), min(y2, v2) - max(y1, v1)
    shared = width * height if width > 0 and height > 0 else 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) if b[2] > b[0] and b[3] > b[1] else 0.0 for b in (pred, target)]
    union = areas[0] + areas[1] - shared
    similarity = shared / union if union > 0 else 0.0
    if focal is not None:
        low, high = focal
        if similarity < low:
            similarity = 0.0
        elif similarity > high:
            similarity = 1.0
        else:
            similarity = (similarity - low) / (high - low)
    if alpha is not None:
        similarity = (1 + alpha) * similarity / (alpha + similarity)
    if corners:
        w, h = size
        first = (u1 - x1) ** 2 + (v1 - y1) ** 2
        second = (u2 - x2) ** 2 + (v2 - y2) ** 2
        similarity = similarity - first / (w**2 + h**2) - second / (w**2 + h**2)
    return 1 - similarity


def gradient(pred, target, size, step=1e-5, **stages):
    """Of the loss in pred, by central differences."""
    result = []
    for i in range(4):
        low, high = list(pred), list(pred)
        low[i] -= step
        high[i] += step
        result.append((loss(high, target, size, **stages) - loss(low, target, size, **stages)) / (2 * step))
    return result

"""What a box loss is called with in :mod:`.small_detectors`, and its value by the formula, row by row.

Which image a row comes from is known here by where its object is: image 0 has its objects to the right of a border,
image 1 to the left.
"""

from contextlib import contextmanager

from . import literal_rf_mpdiou as literal
from . import small_detectors as small

SIZES = [(128, 96), (80, 64)]
PADDED = (128, 96)


@contextmanager
def captured(loss):
    """What the loss is called with, and what it returns."""
    calls = []

    def keep(module, args, kwargs, output):
        named = dict(zip(('pred', 'target', 'weight', 'avg_factor'), args, strict=False), **kwargs)
        calls.append(dict(named, output=output))

    handle = loss.register_forward_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def by_hand(call, sizes, loss_weight=2.0, unit=1.0):
    """The loss of a call, row by row; the images of the rows; no head took part."""
    total, images = 0.0, []
    weights = call['weight'] if call['weight'].dim() == 1 else call['weight'][:, 0]
    for pred, target, weight in zip(call['pred'].tolist(), call['target'].tolist(), weights.tolist(), strict=True):
        if weight:
            images.append(int(target[0] * unit < small.BORDER))
            size = [side / unit for side in sizes[images[-1]]]
            total += weight * literal.loss(pred, target, size)
    return loss_weight * total / float(call['avg_factor']), images

"""What :func:`mmscale.compat.predict_with_ssd` mends, once MMDetection's models are there."""

import functools

from mmdet.models.dense_heads import SSDHead

init = SSDHead.__init__


@functools.wraps(init)
def init_with_loss(self, *args, **kwargs):
    """As before, and with the attribute that the base class asks for."""
    init(self, *args, **kwargs)
    if not hasattr(self, 'loss_cls'):  # the instance's: one of the class would hide a module that a child has
        self.loss_cls = None


SSDHead.__init__ = init_with_loss

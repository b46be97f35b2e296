"""What :func:`mmscale.compat.predict_with_ssd` mends, once MMDetection's models are there."""

from mmdet.models.dense_heads import SSDHead

if not hasattr(SSDHead, 'loss_cls'):
    SSDHead.loss_cls = None

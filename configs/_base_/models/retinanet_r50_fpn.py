# RetinaNet R50 in the form that FINE's tables count, torchvision's: the extra levels are convolved from P5 (34.0 M with
# 91 classes), where MMDetection's own takes them from C5 (38.0 M).
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(neck=dict(add_extra_convs='on_output', relu_before_extra_convs=True))

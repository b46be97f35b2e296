# FINE in YOLOv12-s's neck, on COCO.
_base_ = '../yolo/yolov12_s_8xb32-600e_coco.py'

model = dict(neck=dict(type='mmscale.FINEYOLOv12PAFPN'))

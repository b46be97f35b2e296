# FINE in YOLOv10-s's neck, on COCO.
_base_ = '../yolo/yolov10_s_8xb32-500e_coco.py'

model = dict(neck=dict(type='mmscale.FINEYOLOv10PAFPN'))

# FINE in YOLOv8-s's neck, on COCO.
_base_ = '../yolo/yolov8_s_8xb16-500e_coco.py'

model = dict(neck=dict(type='mmscale.FINEYOLOv8PAFPN'))

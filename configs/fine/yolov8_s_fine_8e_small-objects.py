# FINE in YOLOv8-s's neck. Generated small objects at 192x192 from random weights, 8 epochs, for two CPU cores.
_base_ = '../yolo/yolov8_s_8e_small-objects.py'

model = dict(neck=dict(type='mmscale.FINEYOLOv8PAFPN'))

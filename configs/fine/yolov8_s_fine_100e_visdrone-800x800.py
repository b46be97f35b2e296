# FINE in YOLOv8-s's neck, on VisDrone at 800x800.
_base_ = './yolov8_s_100e_visdrone-800x800.py'

model = dict(neck=dict(type='mmscale.FINEYOLOv8PAFPN'))

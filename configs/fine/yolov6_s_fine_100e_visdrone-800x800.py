# FINE in YOLOv6-s's neck, on VisDrone at 800x800.
_base_ = './yolov6_s_100e_visdrone-800x800.py'

model = dict(neck=dict(type='mmscale.FINEYOLOv6RepBiPAFPN'))

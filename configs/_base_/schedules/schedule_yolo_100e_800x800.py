# YOLOv8's recipe at 800x800 for 100 epochs: FINE's table 8, which says the size alone.
_base_ = './schedule_yolo_500e.py'

size = (800, 800)
mosaic, affine = _base_.yolo_mosaic
mosaic['img_scale'] = size
affine['border'] = (-size[0] // 2, -size[1] // 2)
yolo_train_pipeline = [*_base_.yolo_load, mosaic, affine, *_base_.yolo_last]
yolo_test_pipeline = _base_.yolo_test_pipeline
stage2 = _base_.yolo_train_pipeline_stage2
for step in (*stage2, *yolo_test_pipeline):
    if 'scale' in step:
        step['scale'] = size
del step

max_epochs = 100
train_cfg = dict(max_epochs=max_epochs, dynamic_intervals=[(max_epochs - 10, 1)])
default_hooks = dict(param_scheduler=dict(max_epochs=max_epochs))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_epoch'] = max_epochs - 10
custom_hooks[-1]['switch_pipeline'] = stage2

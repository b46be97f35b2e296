# CSF-Net's recipe (section 4.1): AdamW, cosine, 80 epochs with 3 of warm-up, mosaic and MixUp but for the last 15; "all
# other settings followed the YOLOV8 defaults", weight decay and betas among them. Ours: the defaults' learning rate of
# 0.01, and 0.1 for biases at the start, are SGD's; 0.001 and no rate of their own stand here. MixUp has YOLOv8-m's 0.1,
# the default is none. Mixed precision is a flag, `--amp`. Copy-paste, which the paper names, pastes objects by their
# masks; its data set has none, so that it would pass every image on.
_base_ = './schedule_yolo_500e.py'

csf_train_pipeline = [
    *_base_.yolo_load,
    *_base_.yolo_mosaic,
    dict(type='mmyolo.YOLOv5MixUp', prob=0.1, pre_transform=[*_base_.yolo_load, *_base_.yolo_mosaic]),
    *_base_.yolo_last,
]

max_epochs = 80
last_epochs = 15
train_cfg = dict(max_epochs=max_epochs, val_interval=5, dynamic_intervals=[(max_epochs - last_epochs, 1)])
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.001, betas=(0.937, 0.999), weight_decay=0.0005))
default_hooks = dict(
    param_scheduler=dict(
        scheduler_type='cosine', max_epochs=max_epochs, warmup_epochs=3, warmup_mim_iter=1, warmup_bias_lr=0.0),
    checkpoint=dict(interval=5))
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['switch_epoch'] = max_epochs - last_epochs

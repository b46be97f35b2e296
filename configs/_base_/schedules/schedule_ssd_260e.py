# SSD300's recipe in the CFSAM paper (section 4.1): SGD, 0.001, a tenth after epoch 130, another tenth after epoch
# 220, 260 epochs of the data (not repeated), 48 images on one GPU. The warm-up of 500 iterations is MMDetection's;
# the paper names none.
max_epochs = 260

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[130, 220], gamma=0.1)
]

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=0.0005))

auto_scale_lr = dict(enable=False, base_batch_size=48)

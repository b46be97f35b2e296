# COCO 2014, boxes: 82,783 images for training, 40,504 for validation and testing. Older papers use this split; its
# images are those of COCO 2017, divided otherwise, under other names.
_base_ = './coco_detection.py'

train_dataloader = dict(
    dataset=dict(ann_file='annotations/instances_train2014.json', data_prefix=dict(img='train2014/')))
val_dataloader = dict(dataset=dict(ann_file='annotations/instances_val2014.json', data_prefix=dict(img='val2014/')))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=_base_.data_root + 'annotations/instances_val2014.json')
test_evaluator = val_evaluator

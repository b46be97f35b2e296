# The short form for ablations (FINE's tables 2 and 3, fig. 7): 12 epochs, nothing else changes.
_base_ = './rtdetr_r18_8xb2-72e_coco.py'

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs)

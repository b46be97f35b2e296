# MMDetection's runtime, and what MMScale changes in it.
_base_ = 'mmdet::_base_/default_runtime.py'

custom_imports = dict(imports=['mmscale'], allow_failed_imports=False)

# Class names, num_classes and labels are compared with the data before the first step.
custom_hooks = [dict(type='mmscale.CheckDataHook')]

default_hooks = dict(
    # Two or more: mmengine removes the oldest checkpoint before it writes the new one, so that with one a kill in
    # between would leave none. The best is kept beside them: "auto" takes the evaluator's first figure (COCO: AP).
    checkpoint=dict(max_keep_ckpts=3, save_best='auto', rule='greater'))

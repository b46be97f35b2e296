"""Whether model and data agree, asked before the first step."""
from collections.abc import Iterator

import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner

from ...datasets.checks import check_class_type, quote_names
from ...registry import HOOKS

__all__ = ['CheckDataHook', 'check_heads', 'check_labels', 'leaf_datasets']

# Parts of a module's name whose ``num_classes`` is not the number of the data set's classes: region proposals have one
# class, semantic and panoptic heads count stuff too, a head for re-identification counts individuals, and a backbone's
# belongs to its pre-training.
FOREIGN = ('backbone', 'rpn', 'semantic', 'seg_head', 'panoptic', 'stuff', 'decode_head', 'auxiliary_head', 'teacher',
           'reid')


@HOOKS.register_module()
class CheckDataHook(Hook):
    """Checks, before training, validation or a test starts, that the model's heads and the data sets agree.

    - ``num_classes`` of every detection and mask head is the number of the data set's classes. MMDetection's
      ``NumClassCheckHook`` looks at the first training epoch, after weights were loaded and the optimizer built.
    - No label of the data lies outside the classes; otherwise the loss fails far away, on a GPU as a device-side
      assert.

    In a panoptic data set both are about its things (``metainfo['thing_classes']``): stuff has neither box nor mask.

    Wrappers of data sets (concatenated, repeated, class-balanced, multi-image) are looked through.

    Args:
        max_images (int): Images per data set whose labels are looked at, evenly spread: our choice, so that COCO takes
            a fraction of a second. MMScale's own data sets check all labels as they read them. Defaults to 2000.

    Raises:
        ValueError: Model and data do not agree; the message has both numbers and the classes.
    """
    priority = 'VERY_HIGH'

    def __init__(self, max_images: int = 2000) -> None:
        if not isinstance(max_images, int) or max_images < 0:
            raise ValueError(f'max_images={max_images!r} should be an integer from 0 on')
        self.max_images = max_images

    def before_run(self, runner: Runner) -> None:
        """Checks the data sets of all loops that are about to run, before weights are loaded.

        Args:
            runner (Runner): The runner of the training, validation or test.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # the properties (``runner.train_loop``) would build loops that this run does not need
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if not isinstance(loop, BaseLoop):
                continue
            for dataset in leaf_datasets(loop.dataloader.dataset):
                if getattr(dataset, 'metainfo', {}).get('classes') is None:
                    runner.logger.warning(f'{_describe(dataset)} has no classes in its metainfo: it is not checked')
                    continue
                check_heads(model, dataset)
                check_labels(dataset, self.max_images)


def leaf_datasets(dataset) -> Iterator:
    """The data sets inside any wrappers.

    Args:
        dataset (Dataset): A data set, or a wrapper with ``dataset`` or ``datasets``.

    Yields:
        Dataset: A data set that wraps no other.
    """
    inner = getattr(dataset, 'datasets', None)
    if inner is None:
        wrapped = getattr(dataset, 'dataset', None)
        if wrapped is None:
            yield dataset
            return
        inner = [wrapped]
    for item in inner:
        yield from leaf_datasets(item)


def class_heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The heads whose ``num_classes`` should be the number of the data set's classes, with their names.

    Args:
        model (nn.Module): A detector, or test-time augmentation around one.
    """
    for name, module in model.named_modules():
        parts = name.split('.')
        if not any('head' in part for part in parts) or any(word in part for part in parts for word in FOREIGN):
            continue
        if 'reid' in type(module).__name__.lower():  # BaseReID calls its LinearReIDHead just 'head'
            continue
        if isinstance(getattr(module, 'num_classes', None), int) and not getattr(module, 'class_agnostic', False):
            yield name, module


def instance_classes(dataset) -> tuple[str, ...]:
    """The classes that boxes and masks have: all of them, or a panoptic data set's things.

    Args:
        dataset (Dataset): A data set with ``metainfo['classes']``.

    Raises:
        TypeError: They are no sequence of names.
    """
    classes = dataset.metainfo.get('thing_classes') or dataset.metainfo['classes']
    return check_class_type(classes, _describe(dataset))


def check_heads(model: nn.Module, dataset) -> None:
    """Compares the model's heads with one data set.

    Args:
        model (nn.Module): The model.
        dataset (Dataset): A data set with ``metainfo['classes']``.

    Raises:
        ValueError: A head has another number of classes.
    """
    classes = instance_classes(dataset)
    wrong = [f'{name}.num_classes={module.num_classes} ({type(module).__name__})' for name, module in class_heads(model)
             if module.num_classes != len(classes)]
    if wrong:
        raise ValueError(f'the model has {", ".join(wrong)}, but {_describe(dataset)} has {len(classes)} classes '
                         f'{quote_names(classes)}; set num_classes={len(classes)} in the model, or the classes in the '
                         'data set')


def check_labels(dataset, max_images: int) -> None:
    """Looks for labels outside the classes of one data set, in evenly spread images.

    Args:
        dataset (Dataset): A data set with ``get_data_info``.
        max_images (int): How many images to look at.

    Raises:
        ValueError: A label is out of range.
    """
    classes, size = instance_classes(dataset), len(dataset)
    if not hasattr(dataset, 'get_data_info') or not size or not max_images:
        return
    step = max(1, -(-size // max_images))
    for index in range(0, size, step):
        info = dataset.get_data_info(index)
        for instance in info.get('instances') or []:
            label = instance.get('bbox_label', 0)
            if not 0 <= label < len(classes):
                raise ValueError(f"image '{info.get('img_path', index)}' of {_describe(dataset)} has an object with "
                                 f'label {label}, but labels 0 to {len(classes) - 1} are right for its {len(classes)} '
                                 f'classes {quote_names(classes)}')


def _describe(dataset) -> str:
    file = getattr(dataset, 'ann_file', '')
    return f'{type(dataset).__name__}{f" ({file!r})" if file else ""}'

"""Few shots: which images are chosen, that nothing but the boxes and the seed decides it, and how they are sampled."""
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, DefaultSampler, RepeatDataset
from mmengine.model import BaseModel
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.runner import Runner

from mmscale.datasets import CocoDataset, FewShotSampler, VOCDataset, few_shot_indices

from ..trainings import own_process_state
from .tiny import voc_xml, write_coco, write_voc

NAMES = ('disk', 'square', 'cross', 'star', 'ring')


def coco(folder, images, name='a', **kwargs) -> CocoDataset:
    """A data set from the labels of every image's boxes; a box of label -1 - x has label x and is a crowd."""
    annotations = [dict(image_id=number, category_id=(label if label >= 0 else -1 - label) + 1, bbox=[5, 5, 9, 9],
                        iscrowd=int(label < 0)) for number, labels in enumerate(images, 1) for label in labels]
    path = write_coco(folder / f'{name}.json', [dict(id=number) for number in range(1, len(images) + 1)], annotations,
                      NAMES)
    return CocoDataset(ann_file=str(path), metainfo=dict(classes=NAMES), data_prefix=dict(img=f'{name}/'), **kwargs)


def draw_labels(number=120, seed=0) -> list[list[int]]:
    """Labels of images: few classes in each, some much rarer than others, some images without a box."""
    generator = np.random.default_rng(seed)
    likely = np.array([24, 12, 6, 2, 1]) / 45
    return [generator.choice(5, generator.poisson(2), p=likely).tolist() for _ in range(number)]


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return coco(tmp_path_factory.mktemp('images'), draw_labels())


def count(dataset, indices) -> Counter:
    """Boxes of every label in some images of a data set."""
    return Counter(box['bbox_label'] for index in indices for box in dataset.get_data_info(index)['instances']
                   if not box['ignore_flag'])


def names(dataset, indices) -> list[str]:
    return [dataset.get_data_info(index)['img_path'] for index in indices]


@pytest.fixture
def process(monkeypatch):
    """A function that makes this process one of several: ``process(rank, world_size)``."""
    return lambda rank, world: monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, world))


# Which images


@pytest.mark.parametrize('shots', [1, 2, 5, 10, 1000])
@pytest.mark.parametrize('subset_seed', range(5))
def test_every_class_has_its_shots_and_no_image_can_be_left_out(dataset, shots, subset_seed):
    everything = count(dataset, range(len(dataset)))
    assert sorted(everything) == [0, 1, 2, 3, 4] and min(everything.values()) < 10 < max(everything.values())
    indices = few_shot_indices(dataset, shots, subset_seed)
    assert indices == sorted(set(indices))
    wanted = {label: min(shots, number) for label, number in everything.items()}
    assert count(dataset, indices) >= Counter(wanted)
    for index in indices:
        assert not count(dataset, [other for other in indices if other != index]) >= Counter(wanted), index


def test_follows_from_the_seed_alone(dataset):
    first = few_shot_indices(dataset, 3, 7)
    np.random.seed(1)
    torch.manual_seed(1)
    assert few_shot_indices(dataset, 3, 7) == first
    assert len({tuple(few_shot_indices(dataset, 3, seed)) for seed in range(10)}) == 10
    assert few_shot_indices(dataset, 3) == few_shot_indices(dataset, 3, 0)


def test_is_the_same_everywhere_and_for_ever(tmp_path):
    """Figures are of one subset: with another choice they could not be compared with earlier ones."""
    dataset = coco(tmp_path, [[label for label in range(5) if number % (label + 2) == 0] for number in range(60)])
    assert [few_shot_indices(dataset, shots) for shots in (1, 3)] == [[36, 40], [15, 30, 36, 40, 42, 52]]


def test_the_rule_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr('numpy.random.RandomState', lambda seed: SimpleNamespace(permutation=np.arange))
    # 0 is taken for disk, 1 for square, 2 for cross; 3 has no class that is short; then 0 is not needed any more
    assert few_shot_indices(coco(tmp_path, [[0], [1, 1], [0, 2], [0, 1]]), 1) == [1, 2]
    # one of 0 and 1 is not needed, and 0 was taken first
    assert few_shot_indices(coco(tmp_path, [[0], [0], [0, 0]], 'b'), 3) == [1, 2]
    # every one is taken for a class of its own
    assert few_shot_indices(coco(tmp_path, [[0, 1], [2, 2], [0, 3], [1, 3]], 'c'), 1) == [0, 1, 2]


def test_images_alike_are_chosen_equally_often(tmp_path):
    dataset = coco(tmp_path, [[0]] * 20)
    subsets = [few_shot_indices(dataset, 5, seed) for seed in range(200)]
    assert {len(subset) for subset in subsets} == {5}
    often = Counter(index for subset in subsets for index in subset)
    # 200 draws of 5 in 20: 50 times, with a standard deviation of sqrt(200 * 0.25 * 0.75) = 6.1
    assert len(often) == 20 and all(abs(times - 50) < 4 * 6.1 for times in often.values())


def test_boxes_to_ignore_do_not_count(tmp_path):
    dataset = coco(tmp_path, [[-1], [0, -2], [-1, -1, -1], [1]])
    for seed in range(10):
        assert few_shot_indices(dataset, 5, seed) == [1, 3]


def test_boxes_too_small_to_train_on_do_not_count(tmp_path):
    root = write_voc(tmp_path, {'a': voc_xml([('disk', 1, 1, 5, 5)]), 'b': voc_xml([('disk', 1, 1, 40, 40)])})
    dataset = VOCDataset(data_root=str(root), ann_file='ImageSets/Main/train.txt', metainfo=dict(classes=('disk',)),
                         filter_cfg=dict(bbox_min_size=10))
    for seed in range(10):
        assert few_shot_indices(dataset, 1, seed) == [1]


def test_images_without_boxes_change_nothing(tmp_path, dataset):
    filtered = coco(tmp_path, draw_labels(), filter_cfg=dict(filter_empty_gt=True))
    assert len(filtered) < len(dataset)
    assert names(filtered, few_shot_indices(filtered, 3)) == names(dataset, few_shot_indices(dataset, 3))


# Wrappers


def test_concatenated(tmp_path):
    """The parts are drawn from as one data set, though an image has the same name in both."""
    parts = [coco(tmp_path, draw_labels(60, seed), name) for seed, name in enumerate('ab')]
    whole, boxes = ConcatDataset(parts), count(parts[0], range(60)) + count(parts[1], range(60))
    indices = few_shot_indices(whole, 20, 3)
    assert indices[0] < 60 <= indices[-1]
    assert all(count(whole, indices)[label] >= min(20, number) for label, number in boxes.items())


def test_the_same_labels_in_two_folders_are_two_images(tmp_path):
    whole = ConcatDataset([coco(tmp_path, [[0], [1]], name) for name in 'ab'])
    assert few_shot_indices(whole, 2) == [0, 1, 2, 3]


def test_repetitions_count_once_and_are_kept(dataset):
    plain = few_shot_indices(dataset, 4, 1)
    repeated = few_shot_indices(RepeatDataset(dataset, times=3), 4, 1)
    assert repeated == [index + start for start in (0, 120, 240) for index in plain]


def test_repetitions_of_concatenated_data(tmp_path):
    """As in the configs of PASCAL VOC."""
    parts = [coco(tmp_path, draw_labels(60, seed), name) for seed, name in enumerate('ab')]
    plain = few_shot_indices(ConcatDataset(parts), 4)
    both = dict(type='mmdet.ConcatDataset', datasets=parts)
    repeated = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=both))
    assert few_shot_indices(repeated, 4) == [index + start for start in (0, 120) for index in plain]


def test_class_balanced(dataset):
    balanced = ClassBalancedDataset(dataset, oversample_thr=0.2)
    plain = set(few_shot_indices(dataset, 4, 1))
    assert len(balanced) > len(dataset)
    expected = [place for place, index in enumerate(balanced.repeat_indices) if index in plain]
    assert few_shot_indices(balanced, 4, 1) == expected


# Mistakes


@pytest.mark.parametrize('shots', [0, -3, 2.0, '5', None])
def test_a_wrong_number_of_shots(dataset, shots):
    with pytest.raises(ValueError, match=f'^shots={shots!r} should be an integer from 1 on$'):
        few_shot_indices(dataset, shots)


@pytest.mark.parametrize('subset_seed', [-1, 2**32, None, 0.5])
def test_a_wrong_seed(dataset, subset_seed):
    with pytest.raises(ValueError, match=rf'^subset_seed={subset_seed} should be an integer from 0 to 2\*\*32 - 1$'):
        FewShotSampler(dataset, 1, subset_seed=subset_seed)
    assert few_shot_indices(dataset, 1, 2**32 - 1)


def test_nothing_to_choose_from(tmp_path):
    with pytest.raises(ValueError, match=r"^no box of dataset=CocoDataset \('.*a.json'\) counts in its 2 images, so "
                                         r'shots=5 of a class cannot be chosen$'):
        few_shot_indices(coco(tmp_path, [[], [-1]]), 5)


def test_a_wrapper_that_hides_its_boxes(dataset):
    with pytest.raises(ValueError, match='^dataset=Subset has no get_data_info, so its boxes cannot be counted'):
        few_shot_indices(torch.utils.data.Subset(dataset, [0, 1]), 5)
    for key in ('img_path', 'instances'):
        infos = [dataset.get_data_info(index) for index in range(3)]
        del infos[2][key]
        hidden = type('Hidden', (list,), dict(get_data_info=list.__getitem__))(infos)
        with pytest.raises(ValueError, match=f"^entry 2 of dataset=Hidden has no '{key}', so its boxes cannot be"):
            few_shot_indices(hidden, 5)


def test_images_are_not_mixed_in(dataset):
    mixing = dict(type='mmdet.MultiImageMixDataset', dataset=dataset, pipeline=[])
    for wrapped in (mixing, dict(type='RepeatDataset', times=2, dataset=mixing),
                    dict(type='mmdet.ConcatDataset', datasets=[dataset, mixing])):
        kind = wrapped['type'].split('.')[-1]
        with pytest.raises(ValueError, match=f'^dataset={kind} mixes images that shots=2 does not choose'):
            FewShotSampler(DATASETS.build(wrapped), 2)


@pytest.mark.parametrize('allowed', [0, 1000])
def test_a_pipeline_that_gives_up(tmp_path, allowed):
    """MMEngine then loads any image of the data set: one that was not chosen, or an error, or one of ``indices``."""
    dataset = coco(tmp_path, [[0]] * 3, max_refetch=allowed)
    chosen = few_shot_indices(dataset, 1)
    assert len(chosen) == 1
    refused = dataset.get_data_info(chosen[0])['img_path']
    dataset.pipeline = lambda info: None if info['img_path'] == refused else info
    if allowed:
        assert dataset[chosen[0]]['img_path'] != refused
    else:
        with pytest.raises(Exception, match='Cannot find valid image after 0'):
            dataset[chosen[0]]
    inside = coco(tmp_path, [[0]] * 3, indices=chosen)
    assert len(inside) == 1 and inside.get_data_info(0)['img_path'] == refused


# The sampler


@pytest.mark.parametrize('world', [1, 2, 3])
@pytest.mark.parametrize('shots', [1, 3, 10])
def test_divided_among_processes(dataset, process, world, shots):
    subset = few_shot_indices(dataset, shots)
    orders = []
    for rank in range(world):
        process(rank, world)
        sampler = FewShotSampler(dataset, shots, seed=4)
        sampler.set_epoch(2)
        orders.append(list(sampler))
        assert len(orders[-1]) == len(sampler) == -(-len(subset) // world)
    together = [index for indices in zip(*orders, strict=True) for index in indices]
    assert sorted(together[:len(subset)]) == subset
    assert together[len(subset):] == together[:len(together) - len(subset)]
    process(0, 1)
    alone = FewShotSampler(dataset, shots, seed=4)
    alone.set_epoch(2)
    assert list(alone) == together[:len(subset)]


def test_more_processes_than_images(tmp_path, process):
    dataset = coco(tmp_path, [[0, 1], [], []])
    for rank in range(3):
        process(rank, 3)
        assert list(FewShotSampler(dataset, 1, seed=0)) == [0]


def test_a_new_order_every_epoch(dataset):
    sampler = FewShotSampler(dataset, 10, seed=5)
    orders = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert list(sampler) == orders[-1]
    assert len({tuple(order) for order in orders}) == 4
    assert {tuple(sorted(order)) for order in orders} == {tuple(few_shot_indices(dataset, 10))}
    resumed = FewShotSampler(dataset, 10, seed=5)
    resumed.set_epoch(3)
    assert list(resumed) == orders[3]


def test_order_is_that_of_the_default_sampler(dataset):
    ours, theirs = FewShotSampler(dataset, 10, seed=5), DefaultSampler(few_shot_indices(dataset, 10), seed=5)
    for epoch in (0, 3):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert list(ours) == [ours.indices[place] for place in theirs]


def test_seed_orders_and_subset_seed_chooses(dataset):
    orders = {(subset_seed, seed): list(FewShotSampler(dataset, 10, subset_seed, seed=seed))
              for subset_seed in (0, 1) for seed in (0, 1)}
    for subset_seed in (0, 1):
        first, second = orders[subset_seed, 0], orders[subset_seed, 1]
        assert first != second and sorted(first) == sorted(second) == few_shot_indices(dataset, 10, subset_seed)
    assert sorted(orders[0, 0]) != sorted(orders[1, 0])


def test_without_shuffling(dataset):
    sampler = FewShotSampler(dataset, 10, shuffle=False)
    sampler.set_epoch(1)
    assert list(sampler) == few_shot_indices(dataset, 10)


# In a config


@pytest.fixture
def own_process(monkeypatch):
    yield from own_process_state(monkeypatch)


@pytest.mark.parametrize('sampler', ["dict(_delete_=True, type='mmscale.FewShotSampler', shots=10)",
                                     "dict(type='mmscale.FewShotSampler', shots=10)"])
def test_from_a_config_with_blood_cells(sampler, tmp_path, repo, bccd_root, own_process):
    (tmp_path / 'config.py').write_text(f"""
_base_ = '{repo}/configs/_base_/datasets/bccd.py'
default_scope = 'mmdet'
train_dataloader = dict(num_workers=0, dataset=dict(data_root='{bccd_root}/'), sampler={sampler})
""")
    cfg, loaded = Config.fromfile(tmp_path / 'config.py').train_dataloader, []
    for seed in (0, 1):
        loader = Runner.build_dataloader(cfg, seed=seed)
        sampler = loader.batch_sampler.sampler
        assert type(sampler) is FewShotSampler and loader.dataset is sampler.dataset
        loaded.append([sample.img_path for batch in loader for sample in batch['data_samples']])
    assert loaded[0] != loaded[1]
    assert sorted(loaded[0]) == sorted(loaded[1]) == sorted(names(loader.dataset, few_shot_indices(loader.dataset, 10)))
    assert len(loaded[0]) == len(sampler) == 10  # as docs/data.md says
    assert count(loader.dataset, sampler.indices) == {0: 135, 1: 10, 2: 12}


def test_is_found_from_mmengine(dataset):
    sampler = DATA_SAMPLERS.build(dict(type='mmscale.FewShotSampler', shots=2), default_args=dict(dataset=dataset))
    assert sorted(sampler) == few_shot_indices(dataset, 2)


class Note(BaseModel):
    """Notes which images it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, img_path, **kwargs):
        self.seen += img_path
        return dict(loss=self.weight.sum())

    def train_step(self, data, optim_wrapper):
        optim_wrapper.update_params(self.forward(**data)['loss'])
        return {}


def train(dataset, folder, epochs, seed=3, resume=False) -> list[list[str]]:
    """The images of every epoch that was trained."""
    runner = Runner(
        Note(), str(folder), optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        train_dataloader=dict(batch_size=1, num_workers=0, dataset=dataset,
                              sampler=dict(type='mmscale.FewShotSampler', shots=3)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs), resume=resume, randomness=dict(seed=seed),
        default_scope='mmdet', experiment_name=f'{folder.name}-{epochs}-{resume}', cfg=Config(dict(model=None)),
        log_level='ERROR')
    runner.train()
    size = len(few_shot_indices(dataset, 3))
    seen = runner.model.seen
    assert len(seen) % size == 0
    return [seen[start:start + size] for start in range(0, len(seen), size)]


def test_a_run_that_is_resumed_goes_on_with_the_same_images_in_the_same_order(tmp_path, dataset, own_process):
    whole = train(dataset, tmp_path / 'whole', 4)
    assert len({tuple(epoch) for epoch in whole}) == 4 and len({tuple(sorted(epoch)) for epoch in whole}) == 1
    assert train(dataset, tmp_path / 'cut', 2) == whole[:2]
    assert train(dataset, tmp_path / 'cut', 4, resume=True) == whole[2:]
    other = train(dataset, tmp_path / 'other', 1, seed=4)
    assert other[0] != whole[0] and sorted(other[0]) == sorted(whole[0])

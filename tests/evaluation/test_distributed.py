"""Two ranks gather what one would have seen."""
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.logging import MMLogger

from mmscale.evaluation import DetectionMetric

from .test_detection_metric import CLASSES, sample


def samples() -> list[dict]:
    box = [[0, 0, 20, 20]]
    return [sample(1, (box, [0]), (box, [0], [0.9])), sample(2, (box, [0])), sample(3, (box, [0]), (box, [0], [0.5]))]


def evaluate(rank: int, folder: str) -> None:
    """What one rank does; three images on two ranks, so that the sampler gives rank 1 the first image again."""
    torch.set_num_threads(1)  # a forked process has no thread pool
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    MMLogger.get_instance('test', log_level='ERROR')
    metric = DetectionMetric(protocols=('coco', 'voc12'))
    metric.dataset_meta = dict(classes=CLASSES)
    for index in ((0, 2), (1, 0))[rank]:
        metric.process({}, [samples()[index]])
    metrics = metric.evaluate(3)
    assert abs(metrics['voc12/mAP'] - 2 / 3) < 1e-6, metrics
    assert abs(metrics['coco/AP'] - 67 / 101) < 1e-6, metrics
    dist.destroy_process_group()


def test_two_ranks(tmp_path):
    # forked, for importing everything twice more would take most of the time
    ranks = mp.start_processes(evaluate, (str(tmp_path), ), nprocs=2, join=False, start_method='fork')
    try:
        assert ranks.join(timeout=60) or ranks.join(timeout=60)
    finally:
        for process in ranks.processes:
            process.kill()

"""What ``make demo`` runs: a baseline and the same detector with FINE, on a data set that is drawn on the spot.

It draws small objects, trains both detectors from random weights through the same Runner as tools/train.py, evaluates
both and leaves a table (``table.md``, ``results.json``) and a picture (``detections.png``) in ``demo/``. What is
there already is reused: a finished training is not run again, a cut one goes on.
"""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from mmscale.analysis.complexity import complexity
from mmscale.datasets.generate import generate
from mmscale.paths import config_root

DETECTORS = {
    'FCOS-R18': 'fine/fcos_r18_fpn_5e_small-objects.py',
    'FCOS-R18 + FINE': 'fine/fcos_r18_fpn-fine_5e_small-objects.py',
}
METRICS = {'AP': 'coco/AP', 'AP50': 'coco/AP50', 'AP_S': 'coco/AP_S'}
SIZE = 192  # side of an image, as the configs have it
PICTURES = 4  # images in the picture
SCORE = 0.2  # detections drawn
COLOURS = [(66, 133, 244), (15, 157, 88), (219, 68, 55), (244, 160, 0)]  # one per class, RGB


class ProgressBar(Hook):
    """One bar over all iterations of a training, with the loss."""

    priority = 'VERY_LOW'

    def __init__(self, title: str) -> None:
        self.title = title

    def before_train(self, runner) -> None:
        self.start = runner.iter  # above 0 where an earlier run was cut
        self.bar = tqdm(total=runner.max_iters, initial=runner.iter, desc=f'train {self.title}', unit='it', ncols=88)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.bar.update()
        if outputs and 'loss' in outputs:
            self.bar.set_postfix(epoch=runner.epoch + 1, loss=f'{outputs["loss"].item():.3f}', refresh=False)

    def after_train(self, runner) -> None:
        self.bar.close()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='python -m mmscale.demo', description=__doc__.splitlines()[0])
    parser.add_argument('--root', type=Path, default=Path('demo'), help='where data, checkpoints and results go')
    parser.add_argument('--cfg-options', nargs='*', default=[], metavar='KEY=VALUE', help='overrides for both runs')
    args = parser.parse_args(argv)
    overrides = dict(option.split('=', 1) for option in args.cfg_options)
    overrides = {key: json.loads(value) for key, value in overrides.items()}
    data = args.root / 'data'
    print(f'== data: {data}')
    generate(data, size=SIZE, objects=(1, 6))
    results = {title: run(title, path, args.root, overrides) for title, path in DETECTORS.items()}
    show_table(results, args.root)
    draw_detections(results, data, args.root / 'detections.png')


def run(title: str, path: str, root: Path, overrides: dict) -> dict:
    """Train and evaluate one detector, or read what an earlier run has left.

    Args:
        title (str): The detector's name in table and picture.
        path (str): Its config, below configs/.
        root (Path): The demo's folder.
        overrides (dict): Config options by dotted name.

    Returns:
        dict: Metrics, cost, seconds and the validation set's predictions.
    """
    cfg = Config.fromfile(config_root() / path)
    cfg.merge_from_dict(overrides)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f'{root / "data"}/'
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(root / 'data' / Path(evaluator.ann_file).relative_to('data/small_objects'))
    # other settings, of another version for instance, are another run
    settings = hashlib.sha256(cfg.pretty_text.encode()).hexdigest()[:8]
    cfg.work_dir = str(root / f'{Path(path).stem}-{settings}')
    done = Path(cfg.work_dir) / 'result.json'
    if done.is_file():
        print(f'== {title}: finished before, {done}')
        return json.loads(done.read_text())
    cost = complexity(cfg, (SIZE, SIZE))
    print(f'== {title}: {cost.params / 1e6:.2f} M parameters, {cost.macs / 1e9:.2f} GMACs at {SIZE}x{SIZE}')
    cfg.log_level = 'WARNING'
    cfg.resume = True
    cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs + 1  # evaluated once, below
    cfg.randomness = dict(seed=0)
    cfg.visualizer.name = Path(cfg.work_dir).name  # of one name there is one, which would go on in the first run's log
    runner = Runner.from_cfg(cfg)
    bar = ProgressBar(title)
    runner.register_hook(bar)
    start = time.monotonic()
    runner.train()
    seconds = time.monotonic() - start
    predictions = PredictionRecorder()
    runner.register_hook(predictions)
    metrics = runner.test()
    result = {
        'metrics': {name: metrics[key] for name, key in METRICS.items()},
        'params': cost.params,
        'macs': cost.macs,
        'seconds': seconds,
        'started_at_iteration': bar.start,
        'predictions': predictions.records,
    }
    partial = done.with_suffix('.part')
    partial.write_text(json.dumps(result))
    os.replace(partial, done)
    return result


class PredictionRecorder(Hook):
    """Keeps the boxes of the first images of a test run, for the picture."""

    def __init__(self) -> None:
        self.records = []

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        for sample in outputs:
            boxes = sample.pred_instances
            kept = boxes[boxes.scores >= SCORE]
            self.records.append(
                {
                    'image': Path(sample.img_path).name,
                    'boxes': kept.bboxes.round().int().tolist(),
                    'labels': kept.labels.tolist(),
                }
            )


def show_table(results: dict, root: Path) -> None:
    """Print the results and leave them as Markdown and JSON."""
    header = ['detector', *METRICS, 'params (M)', 'GMACs', 'train (s)']
    rows = [
        [
            title,
            *(f'{100 * result["metrics"][name]:.1f}' for name in METRICS),
            f'{result["params"] / 1e6:.2f}',
            f'{result["macs"] / 1e9:.2f}',
            f'{result["seconds"]:.0f}',
        ]
        for title, result in results.items()
    ]
    table = Table(*header, title=f'Small objects, {SIZE}x{SIZE}, from random weights, one seed')
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = [header, ['---'] * len(header), *rows]
    (root / 'table.md').write_text(''.join(f'| {" | ".join(line)} |\n' for line in lines))
    kept = ('metrics', 'params', 'macs', 'seconds', 'started_at_iteration')
    summary = {title: {key: result[key] for key in kept} for title, result in results.items()}
    (root / 'results.json').write_text(json.dumps(summary, indent=1))


def draw_detections(results: dict, data: Path, path: Path) -> None:
    """Draw ground truth and every detector's boxes side by side, one validation image a row."""
    annotations = json.loads((data / 'annotations' / 'val.json').read_text())
    names = [category['name'] for category in annotations['categories']]
    truth = {image['file_name']: ([], []) for image in annotations['images']}
    files = {image['id']: image['file_name'] for image in annotations['images']}
    for annotation in annotations['annotations']:
        x, y, w, h = annotation['bbox']
        boxes, labels = truth[files[annotation['image_id']]]
        boxes.append([int(x), int(y), int(x + w), int(y + h)])
        labels.append([c['id'] for c in annotations['categories']].index(annotation['category_id']))
    chosen = [file for file, (boxes, _) in truth.items() if boxes][:PICTURES]
    columns = {'ground truth': truth}
    for title, result in results.items():
        columns[title] = {record['image']: (record['boxes'], record['labels']) for record in result['predictions']}
    rows = []
    for file in chosen:
        image = cv2.imread(str(data / 'val' / file))
        rows.append(np.hstack([draw(image, *boxes[file]) for boxes in columns.values()]))
    sheet = np.vstack([caption(list(columns), names, rows[0].shape[1]), *rows])
    cv2.imwrite(str(path), sheet)
    print(f'== picture: {path} ({", ".join(columns)}; detections with a score from {SCORE})')


def draw(image: np.ndarray, boxes: list, labels: list) -> np.ndarray:
    """The image at twice its size with its boxes."""
    out = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        corners = [2 * v for v in (x1, y1, x2, y2)]
        cv2.rectangle(out, corners[:2], corners[2:], COLOURS[label % len(COLOURS)][::-1], 2)
    return cv2.copyMakeBorder(out, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def caption(titles: list[str], names: list[str], width: int) -> np.ndarray:
    """Column titles, and the colour of each class."""
    out = np.full((64, width, 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    for i, title in enumerate(titles):
        cv2.putText(out, title, (i * width // len(titles) + 8, 24), font, 0.7, (0, 0, 0), 2, cv2.LINE_AA)
    x = 8
    for name, colour in zip(names, COLOURS, strict=True):
        cv2.rectangle(out, (x, 40), (x + 14, 54), colour[::-1], -1)
        cv2.putText(out, name, (x + 20, 53), font, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        x += 40 + 10 * len(name)
    return out


if __name__ == '__main__':
    main()

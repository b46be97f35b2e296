"""What tests of whole trainings share: data half of which is empty, a process like new, a kill, two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, DefaultScope
from mmengine.utils import ManagerMixin

from mmscale.datasets.generate import generate

__all__ = [
    'equal',
    'forget_runs',
    'half_empty_images',
    'kill_at',
    'own_process_state',
    'same_end',
    'train_in_two_processes',
]

PLUGIN = """
import hashlib
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

Config.pretty_text = property(lambda cfg: f'model = {cfg.model!r}')  # as in this process

@HOOKS.register_module()
class Note(Hook):
    def __init__(self, folder):
        self.folder, self.counts = folder, []
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.counts.append(sum(len(sample.gt_instances) for sample in data_batch['data_samples']))
    def after_train(self, runner):
        digest = hashlib.sha256()
        for parameter in runner.model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        with open(f'{self.folder}/rank{get_rank()}', 'w') as file:
            file.write(f'{digest.hexdigest()} {self.counts} {runner.model.find_unused_parameters}')
"""


def half_empty_images(root: Path) -> Path:
    """Six images of 96x96 for training, every second one without its object, and two for validation."""
    generate(root, images_train=6, images_val=2, size=96, objects=(1, 1))
    file = root / 'annotations' / 'train.json'
    content = json.loads(file.read_text())
    content['annotations'] = [entry for entry in content['annotations'] if entry['image_id'] % 2]
    file.write_text(json.dumps(content))
    return root


def own_process_state(monkeypatch):
    """One thread, whose sums repeat to the last bit; and none of the globals that a run of MMEngine leaves.

    For a fixture: ``yield from own_process_state(monkeypatch)``. The config that a run prints is not set in type: YAPF
    takes longer for it than small trainings.
    """
    monkeypatch.setattr(Config, 'pretty_text', property(lambda cfg: f'model = {cfg.model!r}'))
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    threads, known = torch.get_num_threads(), set(HOOKS.module_dict)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for name in set(HOOKS.module_dict) - known:
        del HOOKS.module_dict[name]
    forget_runs()
    assert DefaultScope.get_current_instance() is None


def forget_runs() -> None:
    """Clear the scope, log and message hub that MMEngine keeps in globals."""
    classes = [ManagerMixin]
    for cls in classes:
        classes += cls.__subclasses__()
        getattr(cls, '_instance_dict', {}).clear()


def kill_at(iteration: int) -> None:
    """Register a hook ``Kill`` that ends the run at an iteration, as Ctrl-C does."""

    @HOOKS.register_module()
    class Kill(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == iteration:
                raise KeyboardInterrupt


def equal(first: dict, second: dict) -> bool:
    """Whether two dicts of tensors are, to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def same_end(whole: dict, resumed: dict) -> None:
    """Two checkpoints hold the same weights and the same state of the optimizer."""
    assert equal(whole['state_dict'], resumed['state_dict'])
    first, second = (checkpoint['optimizer'] for checkpoint in (whole, resumed))
    assert first['param_groups'] == second['param_groups']
    assert all(equal(first['state'][index], second['state'][index]) for index in first['state'])
    assert whole['meta']['iter'] == resumed['meta']['iter']


def train_in_two_processes(config: str, hooks: str, folder: Path, repo: Path) -> str:
    """Train by ``dist_train.sh`` on one image per process, of which only the first process's have objects.

    Args:
        config (str): Text of a config with its data; an epoch of it is trained.
        hooks (str): The statement of the config that adds a hook, with ``{}`` in its place.
        folder (Path): Where the files go.
        repo (Path): The checkout.

    Returns:
        str: What was printed. Both processes end with the same weights, and none looks for unused parameters.
    """
    (folder / 'plugin.py').write_text(PLUGIN)
    (folder / 'config.py').write_text(f"""{config}
{hooks.format(f"dict(type='Note', folder={str(folder)!r})")}
custom_imports = dict(imports=['mmscale', 'plugin'])
train_dataloader.update(batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False))
train_cfg.update(max_epochs=1)
val_cfg = val_dataloader = val_evaluator = None
""")
    done = subprocess.run(
        [str(repo / 'tools' / 'dist_train.sh'), str(folder / 'config.py'), '2', '--work-dir', str(folder / 'run')],
        env={**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(folder), 'CUDA_VISIBLE_DEVICES': '-1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (first, counts, unused), (second, none, _) = (
        (folder / f'rank{rank}').read_text().replace(', ', ',').split() for rank in (0, 1)
    )
    assert first == second
    assert sum(json.loads(counts)) > 0 and json.loads(none) == [0, 0, 0]
    assert unused == 'False'
    return done.stdout

"""MMEngine's test loop with a progress bar, for tools that print tables and not the runner's log."""

from collections.abc import Sequence

from mmengine.dist import is_main_process
from mmengine.registry import LOOPS
from mmengine.runner import TestLoop
from tqdm import tqdm

__all__ = ['ProgressLoop']


@LOOPS.register_module()
class ProgressLoop(TestLoop):
    """The test loop, with a bar named after the config's ``progress_name``.

    Args:
        runner (Runner): The runner.
        dataloader (dict): The test loader's config.
        evaluator (dict | list): The evaluator's config.
        fp16 (bool): As in the base class. Defaults to False.
        rounds (int): How many times the test set is run. Defaults to 1.
    """

    def __init__(self, runner, dataloader: dict, evaluator: dict | list, fp16: bool = False, rounds: int = 1) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.bar = tqdm(
            total=rounds * len(self.dataloader),
            desc=runner.cfg.get('progress_name', 'test'),
            unit='batch',
            ncols=88,
            disable=None if is_main_process() else True,  # None: where it is no terminal
        )

    def run(self) -> dict:
        """Tests once; the bar ends with the last round."""
        metrics = super().run()
        if self.bar.n >= self.bar.total:
            self.bar.close()
        return metrics

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Tests a batch."""
        super().run_iter(idx, data_batch)
        self.bar.update()

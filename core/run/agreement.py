"""All processes agree on a few whole numbers, without waiting for each other during a step.

W = processes.
"""

from datetime import timedelta

import torch
import torch.distributed as dist

from core.distributed import world


class Agreement:
    """The maxima over processes of a few whole numbers, which change from step to step.

    With several processes, an answer belongs to the question of the previous step: the reduction
    runs during a step, so no process waits. All processes get the same answers.
    """

    def __init__(self, count: int, timeout: timedelta | None = None):
        """`count`: numbers in a question. `timeout`: how long processes wait for each other."""
        self._none = [0] * count
        # a separate group on the CPU: agreeing must not wait for a device that is still computing
        self._group = dist.new_group(backend="gloo", timeout=timeout) if world() > 1 else None
        self._asked: tuple[dist.Work, torch.Tensor] | None = None

    def ask(self, mine: list[int]) -> list[int]:
        """Give this process's numbers; returns the newest answer, which is zeros at first.

        All processes must call it the same number of times.
        """
        if self._group is None:
            return mine
        answer = self.settle()
        numbers = torch.tensor(mine)
        work = dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._asked = work, numbers
        return answer

    def settle(self) -> list[int]:
        """Wait for the answer to the last question; zeros if there was none."""
        if self._asked is None:
            return self._none
        (work, numbers), self._asked = self._asked, None
        work.wait()
        return numbers.tolist()

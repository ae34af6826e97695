"""A capture for the CPU that is as strict as a CUDA graph: it repeats operations on the tensors they once had.

Nothing of Python runs at a replay. So what a computation reads from anywhere but the tensors that stood in their places
at the capture keeps its old value, as it would on a GPU, and the result is wrong.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Every operation below autograd, with the tensors it took and gave."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.replays = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():  # neither in place nor a view
                    old.copy_(new)


class Capture:
    """What a worker takes for its ``capture``; remembers its tapes."""

    def __init__(self, warm_ups=1):
        self.tapes = []
        self.warm_ups = warm_ups

    def __call__(self, run):
        for _ in range(self.warm_ups):
            run()
        self.tapes.append(Tape())
        with self.tapes[-1]:
            run()
        return self.tapes[-1].replay

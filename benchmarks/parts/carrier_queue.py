"""A parameter server over two queues of tensors (torch.multiprocessing), one worker.

What travels is a descriptor of shared memory. The gradient stands in shared memory from the start, and is handed in
anew each time; the weights handed out are a copy, since the server goes on changing its own.
"""

from __future__ import annotations

import torch
from carrier_process import GRADIENT, Told, commit, now, serve, told
from torch.multiprocessing import Queue, get_context

_PATIENCE = 300.0  # seconds after which whoever asked is gone


def server(given: Told, up: Queue, down: Queue) -> None:
    """A gradient in, weights out; None: what the commits took."""
    torch.set_num_threads(1)
    weights, commits = torch.ones(given.parameters), []
    while True:
        gradient = up.get(timeout=_PATIENCE)
        if gradient is None:
            down.put(commits)
            commits = []
            continue
        commits.append(commit(weights, gradient))
        down.put(weights.clone())


def main() -> None:
    given = told()
    torch.set_num_threads(1)
    context = get_context("spawn")
    up, down = context.Queue(), context.Queue()
    process = context.Process(target=server, args=(given, up, down), daemon=True)
    process.start()
    gradient = torch.zeros(given.parameters).share_memory_()

    def exchange(times: int) -> tuple[list[float], list[float], torch.Tensor]:
        exchanges, weights = [], None
        for _ in range(times):
            gradient.fill_(GRADIENT)
            begun = now()
            up.put(gradient)
            weights = down.get()
            exchanges.append(now() - begun)
        assert weights is not None
        up.put(None)
        return exchanges, down.get(), weights

    serve(exchange)
    process.kill()
    up.cancel_join_thread()


if __name__ == "__main__":
    main()

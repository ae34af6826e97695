"""A parameter server in the shape of Ray's own example (asynchronous), with one worker: two actors and a driver.

The driver waits for the worker's gradients, hands the reference to ``apply_gradients`` of the server and the reference
of the new weights to the worker's next ``compute_gradients``, which sets its model's weights first. Weights and
gradients are numpy arrays in Ray's object store. Left out of the example is the sum over gradients of several workers.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
from carrier_process import GRADIENT, commit, now, say, serve, told

try:
    import ray
except ImportError:
    say({"missing": "ray is not installed: pip install ray"})
    sys.exit(0)


class ParameterServer:
    """The weights."""

    def __init__(self, parameters: int) -> None:
        torch.set_num_threads(1)
        self.weights, self.commits = torch.ones(parameters), []

    def apply_gradients(self, gradient: np.ndarray) -> np.ndarray:
        """One worker's gradient in, the new weights out."""
        self.commits.append(commit(self.weights, torch.from_numpy(gradient)))
        return self.get_weights()

    def get_weights(self) -> np.ndarray:
        """As they are."""
        return self.weights.numpy()

    def taken(self) -> list[float]:
        """Seconds of the commits since this was last asked."""
        commits, self.commits = self.commits, []
        return commits


class DataWorker:
    """Its gradient is there; it notes when it was handed in, and when the next weights are the model's."""

    def __init__(self, parameters: int) -> None:
        torch.set_num_threads(1)
        self.model, self.gradient = torch.zeros(parameters), torch.zeros(parameters)
        self.handed_in, self.exchanges = now(), []

    def compute_gradients(self, weights: np.ndarray) -> np.ndarray:
        """On these weights."""
        self.model.copy_(torch.from_numpy(weights))
        self.exchanges.append(now() - self.handed_in)
        self.gradient.fill_(GRADIENT)
        self.handed_in = now()
        return self.gradient.numpy()

    def weights(self) -> torch.Tensor:
        """Those that it holds: the last of them."""
        return self.model[-1:].clone()

    def taken(self) -> list[float]:
        """Seconds of the exchanges since this was last asked."""
        exchanges, self.exchanges = self.exchanges, []
        return exchanges


def main() -> None:
    given = told()
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2 * 10**9, log_to_driver=False)
    server = ray.remote(ParameterServer).remote(given.parameters)
    worker = ray.remote(DataWorker).remote(given.parameters)

    def exchange(times: int) -> tuple[list[float], list[float], torch.Tensor]:
        gradient = worker.compute_gradients.remote(server.get_weights.remote())
        for _ in range(times):
            (ready,), _ = ray.wait([gradient])
            gradient = worker.compute_gradients.remote(server.apply_gradients.remote(ready))
        ray.wait([gradient])
        exchanges = ray.get(worker.taken.remote())[1:]
        return exchanges, ray.get(server.taken.remote()), ray.get(worker.weights.remote())

    serve(exchange)
    ray.shutdown()


if __name__ == "__main__":
    main()

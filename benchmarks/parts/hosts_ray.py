"""Ray's actor server as its example has it, on a cluster of two hosts that stands already: the server's actor on one of
them, the worker's on the other. This is the driver; it runs on the server's host.
"""

from __future__ import annotations

import json
import os
import sys

from carrier_ray import DataWorker, ParameterServer, ray
from hosts_process import serve


def main() -> None:
    given = json.loads(sys.argv[1])
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    ray.init(address=given["address"], log_to_driver=False)
    server = ray.remote(ParameterServer).options(resources={"server": 1}).remote(given["parameters"])
    worker = ray.remote(DataWorker).options(resources={"worker": 1}).remote(given["parameters"])

    def turn(times: int) -> dict[str, list[float]]:
        gradient = worker.compute_gradients.remote(server.get_weights.remote())
        for _ in range(times):
            (ready,), _ = ray.wait([gradient])
            gradient = worker.compute_gradients.remote(server.apply_gradients.remote(ready))
        ray.wait([gradient])
        return {"exchange": ray.get(worker.taken.remote())[1:], "commit": ray.get(server.taken.remote())}

    turn(1)  # both actors are there
    serve(turn)
    ray.shutdown()


if __name__ == "__main__":
    main()

"""A Ray cluster on this machine in a process of its own: nodes come and go by words on its standard input.

    add {"num_cpus": 2, "resources": {"far": 2}}     answers the new node's id
    remove ID                                        kills that node's processes
    drain ID                                         tells it that it is to go, as a preemption notice does

It ends, and all nodes with it, when its standard input is closed. It is no child of whoever starts it with setsid
--fork, so that what Ray starts is none either.
"""

import json
import os
import sys
import time

MEMORY = 80 << 20
SETTINGS = {
    "metrics_report_interval_ms": 200,
    "worker_niceness": 0,
    "prestart_worker_first_driver": False,
    "enable_worker_prestart": False,
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": MEMORY, "_system_config": SETTINGS}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = {}
    try:
        print(cluster.address, os.getpid(), file=answers, flush=True)
        for line in sys.stdin:
            word, _, rest = line.strip().partition(" ")
            print(obey(cluster, nodes, word, rest), file=answers, flush=True)
    finally:
        cluster.shutdown()


def obey(cluster, nodes, word, rest):
    if word == "add":
        node = cluster.add_node(object_store_memory=MEMORY, wait=False, **json.loads(rest))
        nodes[node.node_id] = node
        return node.node_id
    if word == "remove":
        cluster.remove_node(nodes.pop(rest), allow_graceful=False)
        return "removed"
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    until = int(1000 * (time.time() + 60.0))
    return str(GcsClient(address=cluster.address).drain_node(rest, reason, "this machine is taken back", until))


if __name__ == "__main__":
    main()

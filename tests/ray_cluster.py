"""A Ray cluster for tests, seen from the test: see `ray_nodes`, the program that holds it."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

NODES = Path(__file__).with_name("ray_nodes.py")


class TestCluster:
    """Begins with a head of 4 CPUs; leaves nothing behind when it is closed."""

    __test__ = False

    def __init__(self):
        command = ["setsid", "--fork", sys.executable, str(NODES)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._process.wait()  # setsid; what it started stays
        self.address, pid = self._answer().split()
        self._pid = int(pid)

    def add(self, **options):
        """A node more; its id."""
        return self._ask(f"add {json.dumps(options)}")

    def remove(self, node):
        """This node's processes are killed."""
        self._ask(f"remove {node}")

    def drain(self, node):
        """This node is told that it is to go."""
        assert self._ask(f"drain {node}").startswith("(True")

    def processes(self, name):
        """Numbers of Ray's processes of this cluster whose name begins so, such as ``ray::Hand``."""
        parents, names = {}, {}
        for folder in Path("/proc").iterdir():
            try:
                after = (folder / "stat").read_text().rpartition(")")[2].split()
                names[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
                parents[int(folder.name)] = int(after[1])
            except (OSError, ValueError):
                continue
        return sorted(pid for pid in names if names[pid].startswith(name) and self._is_mine(pid, parents))

    def kill(self, name):
        """Kill the first such process."""
        os.kill(self.processes(name)[0], signal.SIGKILL)

    def metrics(self):
        """What Ray's Prometheus endpoints say, all nodes together."""
        import ray

        texts = []
        for node in ray.nodes():
            if node["Alive"]:
                url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
                with urllib.request.urlopen(url, timeout=10) as answer:
                    texts.append(answer.read().decode())
        return "\n".join(texts)

    def close(self):
        """End all nodes, and wait for that."""
        self._process.stdin.close()
        self._process.stdout.read()  # until nobody is left who could write
        self._process.stdout.close()

    def _is_mine(self, pid, parents):
        while pid > 1:
            if pid == self._pid:
                return True
            pid = parents.get(pid, 0)
        return False

    def _ask(self, words):
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        answer = self._process.stdout.readline().strip()
        assert answer, "the process that holds the cluster has ended"
        return answer


@contextmanager
def connected():
    """A cluster that this process is connected with, and that ends afterwards."""
    import ray

    made = TestCluster()
    try:
        ray.init(address=made.address, log_to_driver=False, logging_level="error")
        yield made
    finally:
        ray.shutdown()
        made.close()

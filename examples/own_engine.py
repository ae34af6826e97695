"""An engine of your own: workers take turns, so that every gradient is exactly as late as there are other workers.

python examples/own_engine.py
"""

from collections import deque

from tardigrad.engines import ENGINES
from tardigrad.engines.base import Engine
from tardigrad.engines.clock import EvaluationClock
from tardigrad.records import Commit, Held, Rejected
from tardigrad.testing import check_engine


class InTurn(Engine):
    """A queue: who reads first pushes first. No clock: one commit is one second."""

    def __init__(self, job):
        super().__init__(job)
        self.clock = EvaluationClock(job)
        self.queue = deque()  # (worker, the snapshot it computes on), in the order of their pulls

    def run(self, pause=None):
        """Train until every lease is finished or lost."""
        server = self.job.server
        if server.version == 0 and not self.queue:
            self.clock.evaluate(0.0)
        self.pull()
        while self.queue:
            worker, snapshot = self.queue.popleft()
            push = self.job.body.compute(worker, snapshot)
            self.tell(push, server.receive(push))
            if (due := server.settle()) is not None:  # a round that waited for a worker without samples only
                self.tell(push, due)
            self.pull()
            if pause is not None and self.queue and pause():
                return False
        self.clock.finish(float(server.version))
        return True

    def pull(self):
        """Whoever may read does."""
        for worker in self.job.server.ready():
            snapshot = self.job.server.pull(worker, copy=False)
            if snapshot.lease is not None:
                self.queue.append((worker, snapshot))
                for observer in self.job.observers:
                    observer.pulled(float(self.job.server.version), worker, snapshot)

    def tell(self, push, result):
        """Every observer hears of everything, in order."""
        now = float(self.job.server.version)
        for observer in self.job.observers:
            if isinstance(result, Commit):
                observer.committed(now, result)
            elif isinstance(result, Held):
                observer.held(now, push, result)
            elif isinstance(result, Rejected):
                observer.rejected(now, push, result)
        if isinstance(result, Commit):
            self.clock.committed(now, result)

    def state_dict(self):
        """The server's state with pulls outstanding, whose turn it is, and what the workers were handed."""
        return {
            "server": self.job.server.state_dict(under_way=True),
            "clock": self.clock.state_dict(),
            "turns": [worker for worker, _ in self.queue],
            "buffers": {worker: {n: t.clone() for n, t in s.buffers.items()} for worker, s in self.queue},
        }

    def load_state_dict(self, state):
        """Go on from there."""
        server = self.job.server
        server.load_state_dict(state["server"])
        self.clock.load_state_dict(state["clock"])
        held = {int(worker): buffers for worker, buffers in state["buffers"].items()}
        self.queue = deque((worker, server.outstanding(worker, held[worker])) for worker in state["turns"])


ENGINES.register("in-turn", InTurn)

LAWS = [
    "versions rise by one",
    "staleness counts commits",
    "samples are applied once",
    "one worker is plain SGD",
    "synchronous is the simulator's",
    "its replay is equal",
    "nothing is left behind",
    "a stopped run goes on",
]

if __name__ == "__main__":
    check_engine("in-turn", laws=LAWS)
    print("in-turn keeps", len(LAWS), "laws")

"""Links: how the first shard's server reaches a shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from tardigrad.backups import Memory
from tardigrad.shards.shard import Shard, ShardPlan


class Link(ABC):
    """One shard, near or far: answers come in the order of the questions."""

    @abstractmethod
    def send(self, word: str, content: Mapping[str, Any]) -> None:
        """Ask; plain data and tensors.

        Raises:
            ShardLost: the shard is gone.
        """

    @abstractmethod
    def tell(self, word: str, content: Mapping[str, Any]) -> None:
        """As `send`, but there is no answer; what the shard raises is raised by the next `receive`."""

    @abstractmethod
    def receive(self) -> Any:
        """The next answer, waited for. Tensors in it may be changed by the next question.

        Raises:
            ShardLost: the shard is gone.
            Exception: what the shard raised.
        """

    @abstractmethod
    def keep_in(self, worker: int, down: Memory, up: Memory) -> None:
        """This worker's backup lies in this range of ``down``, its gradients in that of ``up``; see `Shard.keep_in`."""

    @property
    def apart(self) -> bool:
        """Whether the shard keeps slots of its own, of which nothing is seen here."""
        return False

    @abstractmethod
    def carries(self, worker: int) -> bool:
        """Whether what this worker is handed and hands in goes over this link: the shard sees nothing of its memory."""

    @abstractmethod
    def close(self) -> None:
        """End the shard."""


class NearLink(Link):
    """A shard in this process."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._answers: deque[Any] = deque()

    def send(self, word: str, content: Mapping[str, Any]) -> None:
        """Do it at once; what it raises is the answer."""
        try:
            self._answers.append(self.shard.handle(word, content))
        except Exception as error:  # a rule's own code may raise whatever it likes
            self._answers.append(error)

    def tell(self, word: str, content: Mapping[str, Any]) -> None:
        """Do it at once; what it raises is raised here."""
        self.shard.handle(word, content)

    def receive(self) -> Any:
        """The answer."""
        answer = self._answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def keep_in(self, worker: int, down: Memory, up: Memory) -> None:
        """The shard uses its range of both."""
        cut = self.shard.plan.range
        self.shard.keep_in(worker, cut.of(down.flat), cut.of(up.flat))

    def carries(self, worker: int) -> bool:
        """It sees what lies in this process."""
        return False

    def close(self) -> None:
        """Nothing to end; answers that nobody has waited for are nobody's."""
        self._answers.clear()


Opening = Callable[[Sequence[ShardPlan], Sequence[Tensor]], Sequence[Link]]
"""Makes links to new shards; given the plan of each, and the weights of its range."""


def near(plans: Sequence[ShardPlan], weights: Sequence[Tensor]) -> list[Link]:
    """Shards in this process."""
    return [NearLink(Shard(plan, flat)) for plan, flat in zip(plans, weights, strict=True)]

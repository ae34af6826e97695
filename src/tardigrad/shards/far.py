"""Far shards: what is said between the first shard's server and a shard in another process, and who says it there.

A message is a word, plain data, and tensors by their place in it. Nothing is unpickled. How a message travels, over a
pair of sockets with shared memory or over a network, is the matter of a `Post`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from tardigrad.errors import CompileError, InvalidArgument, ProtocolError, ShardLost, TardigradError
from tardigrad.imports import import_all
from tardigrad.shards.links import Link
from tardigrad.shards.shard import Shard, ShardPlan
from tardigrad.trees import packed, unpacked

_MOST_OWED = 64  # answers: a pair of sockets holds some hundreds, and then both ends wait for each other
TYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.int64)}
"""Types of tensors that travel, by name."""
_KINDS = {kind.__name__: kind for kind in (CompileError, InvalidArgument, ProtocolError)}


class Post(Protocol):
    """Carries messages between two processes, in order."""

    def send(self, word: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Send; the tensors may be changed as soon as this returns. Raises OSError."""

    def receive(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """The next message, waited for. Raises EOFError, OSError."""

    def close(self) -> None:
        """Close this end; the other one notices."""


class FarLink(Link):
    """A shard in another process.

    Args:
        plan: of the shard.
        post: that reaches it.
        weights: of its range.
        imports: modules or files to import there first.
        ended: called when it is to end, after its post was closed.
    """

    def __init__(
        self,
        plan: ShardPlan,
        post: Post,
        weights: Tensor,
        *,
        imports: Sequence[str] = (),
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan, self._post, self._ended = plan, post, ended
        self._closed = False
        self._owed = 0  # answers that nobody has waited for
        self._raised: TardigradError | None = None  # in place of an answer that was read since
        self.send("build", {"plan": plan.as_json(), "imports": list(imports), "weights": weights})

    def built(self) -> None:
        """Wait until it is there.

        Raises:
            ShardLost, TardigradError: it cannot be built.
        """
        self.receive()

    def send(self, word: str, content: Mapping[str, Any]) -> None:
        """Ask; see the base class."""
        tensors: dict[str, Tensor] = {}
        plain = packed(content, "", tensors)
        try:
            self._post.send(word, plain, tensors)
        except OSError as error:
            raise self._lost(error) from error

    def tell(self, word: str, content: Mapping[str, Any]) -> None:
        """Tell; see the base class. Its answer, which says that it was done, is left for later."""
        self._collect(_MOST_OWED - 1)
        self.send(word, content)
        self._owed += 1

    def receive(self) -> Any:
        """The next answer; see the base class."""
        self._collect(0)
        answer = self._heard()
        error, self._raised = self._raised, None
        if error is not None:
            raise error
        return answer

    def _collect(self, most: int) -> None:
        """Read answers that nobody has waited for, until so many are left."""
        while self._owed > most:
            self._owed -= 1
            self._heard()

    def _heard(self) -> Any:
        """The next answer; what was raised in its place is kept, unless something was before."""
        try:
            return self._answer()
        except ShardLost:
            raise
        except TardigradError as error:
            self._raised = self._raised or error
            return None

    def _answer(self) -> Any:
        try:
            word, plain, tensors = self._post.receive()
        except (EOFError, OSError) as error:
            raise self._lost(error) from error
        if word == "raised":
            raise _KINDS.get(plain["kind"], TardigradError)(plain["message"])
        return unpacked(plain["answer"], tensors)

    def close(self) -> None:
        """End it, once."""
        if self._closed:
            return
        self._closed = True
        self._post.close()
        self._ended()

    def _lost(self, error: Exception) -> ShardLost:
        """What to raise. Nothing is asked of it any more: one that hangs would let every question wait."""
        self._post.close()
        why = f"{type(error).__name__}: {error}" if str(error) else "its process has ended"
        return ShardLost(self.plan.range.number, why)


class Holder:
    """Who holds a shard in a process of its own, and answers for it.

    Args:
        post: that reaches the first shard's server.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self.shard: Shard | None = None

    def serve(self) -> None:
        """Answer until the server is gone."""
        with suppress(EOFError, OSError):
            while True:
                word, plain, tensors = self._post.receive()
                self._post.send(*self._answered(word, plain, tensors))

    def _answered(
        self, word: str, plain: Mapping[str, Any], sent: Mapping[str, Tensor]
    ) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        tensors: dict[str, Tensor] = {}
        try:
            return "done", {"answer": packed(self.do(word, unpacked(dict(plain), sent)), "", tensors)}, tensors
        except TardigradError as error:
            return "raised", {"kind": type(error).__name__, "message": str(error)}, {}
        except Exception as error:  # a rule's own code may raise whatever it likes
            return "raised", {"kind": "", "message": "".join(traceback.format_exception(error))}, {}

    def do(self, word: str, content: dict[str, Any]) -> Any:
        """Do what a message says, and answer."""
        if word == "build":
            import_all(content["imports"])
            self.shard = Shard(ShardPlan.from_json(content["plan"]), content["weights"])
            return None
        if self.shard is None:
            raise ProtocolError(f"{word!r} was asked of a shard that is not built yet.")
        return self.shard.handle(word, content)

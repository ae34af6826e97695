"""Sharding: the shards of a server, but the first, as actors on the cluster's nodes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from torch import Tensor

from tardigrad.engines.base import Meeting
from tardigrad.engines.joined.remote import ShardHost, remote_shards
from tardigrad.engines.ray.cluster import any_port, reached
from tardigrad.engines.ray.keeping import dismiss, give, take
from tardigrad.engines.ray.needs import Needs
from tardigrad.errors import InvalidArgument
from tardigrad.shards.links import Link, Opening
from tardigrad.shards.shard import ShardPlan
from tardigrad.transports.credentials import Credentials, new_secret

_PLACED_WITHIN = 120.0  # seconds for Ray to start them all


class ShardHand:
    """Holds one shard, in a process that Ray started."""

    def open(self, secret: str, trusted: bool) -> str:
        """Hold a shard for whoever has the secret; where."""
        host = ShardHost(any_port(ray.util.get_node_ip_address()), Credentials(secret, trusted))
        threading.Thread(target=host.serve, name="shard", daemon=True).start()
        return host.address


def shard_actors(imports: Sequence[str], meeting: Meeting) -> Opening:
    """Shards that are actors; they end with the server.

    Args:
        imports: modules or files that register the rule.
        meeting: of the run: which cluster, and what a server needs there.
    """

    def opening(plans: Sequence[ShardPlan], weights: Sequence[Tensor]) -> Sequence[Link]:
        cluster, credentials = reached(meeting).hold(), Credentials(new_secret(), meeting.trusted_network)
        needs = Needs.parse(meeting.ray)
        kind = f"shard {needs!r}"
        actors = [take(kind) or _actor(needs) for _ in plans]
        left = len(plans)

        def ended() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                for actor in actors:
                    give(kind, actor)
                cluster.close()

        try:
            opened = [actor.open.remote(credentials.secret, credentials.trusted) for actor in actors]
            addresses = ray.get(opened, timeout=_PLACED_WITHIN)
        except (RayError, GetTimeoutError) as error:
            for actor in actors:
                dismiss(actor)
            cluster.close()
            why = f"not within {_PLACED_WITHIN:g} s" if isinstance(error, GetTimeoutError) else str(error)
            raise InvalidArgument(f"Ray could not start {len(plans)} shards beside the first: {why}") from error
        return remote_shards(addresses, credentials, imports=imports, ended=ended)(plans, weights)

    return opening


def _actor(needs: Needs) -> Any:
    return ray.remote(ShardHand).options(scheduling_strategy="SPREAD", **needs.server_options).remote()

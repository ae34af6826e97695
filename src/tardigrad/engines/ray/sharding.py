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
from tardigrad.engines.ray.cluster import reached
from tardigrad.engines.ray.keeping import dismiss, give, take
from tardigrad.engines.ray.needs import Needs
from tardigrad.errors import InvalidArgument
from tardigrad.shards.links import Link, Opening
from tardigrad.shards.shard import ShardPlan
from tardigrad.transports.credentials import Credentials, new_secret

_PLACED_WITHIN = 120.0  # seconds for Ray to start them all


class ShardHand:
    """Holds one shard, in a process that Ray started."""

    def open(self, secret: str) -> str:
        """Hold a shard for whoever has the secret; where."""
        host = ShardHost(f"{ray.util.get_node_ip_address()}:0", Credentials(secret))
        threading.Thread(target=host.serve, name="shard", daemon=True).start()
        return host.address


def shard_actors(imports: Sequence[str], meeting: Meeting) -> Opening:
    """Shards that are actors; they end with the server.

    Args:
        imports: modules or files that register the rule.
        meeting: of the run: which cluster, and what a server needs there.
    """

    def opening(plans: Sequence[ShardPlan], weights: Sequence[Tensor]) -> Sequence[Link]:
        cluster, secret = reached(meeting).hold(), new_secret()
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
            addresses = ray.get([actor.open.remote(secret) for actor in actors], timeout=_PLACED_WITHIN)
        except (RayError, GetTimeoutError) as error:
            for actor in actors:
                dismiss(actor)
            cluster.close()
            raise InvalidArgument(f"Ray could not start {len(plans)} shards beside the first: {error}") from error
        return remote_shards(addresses, Credentials(secret), imports=imports, ended=ended)(plans, weights)

    return opening


def _actor(needs: Needs) -> Any:
    options: dict[str, Any] = {"num_cpus": needs.server_cpus, "scheduling_strategy": "SPREAD"}
    if needs.server_resources:
        options["resources"] = dict(needs.server_resources)
    if needs.runtime_env:
        options["runtime_env"] = dict(needs.runtime_env)
    return ray.remote(ShardHand).options(**options).remote()

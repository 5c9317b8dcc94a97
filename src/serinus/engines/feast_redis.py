"""Rows of several feature views from Feast's Redis store in one round trip.

Feast's `online_read` reads one view at a time and makes each key, each command and each value's message anew, which
costs several times what the store itself needs. This sends the same commands over the store's own connections: each is
made once, by the store's own functions, and then kept by who asks. The store, its configuration and its data stay
Feast's. Only the version of Feast that it was written for is read so, and only a plain Redis or one behind Sentinel;
everything else is left to `online_read`.
"""

from __future__ import annotations

from serinus.engines import feast_start  # noqa: F401 - before anything of Feast

# isort: split

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feast import FeatureView, RepoConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

log = logging.getLogger(__name__)

FEAST = "0.67.0"
Fields = list[bytes | None]
"""What Redis has of one row: Feast's bytes of each feature, then of the event time; None where there is nothing."""


@dataclass(frozen=True)
class RedisRows:
    """The direct way into one Redis store."""

    store: Any
    config: RepoConfig

    @classmethod
    def of(cls, store: Any, config: RepoConfig) -> RedisRows | None:
        """The way into a store; None where only Feast knows it."""
        import feast
        from feast.infra.online_stores import redis

        if type(store) is not redis.RedisOnlineStore or config.online_store.client != redis.RedisClient.redis:
            return None
        if config.online_store.redis_type == redis.RedisType.redis_cluster:
            return None  # its keys are spread over servers
        if feast.__version__ != FEAST:
            log.warning("Feast %s is not %s: Redis is read by Feast's own, slower means", feast.__version__, FEAST)
            return None
        return cls(store, config)

    def commands(self, view: FeatureView, features: Sequence[str]) -> Callable[[EntityKey], bytes]:
        """Makes the command that reads a key's row of a view: `features` in order, then the event time."""
        from feast.infra.online_stores.redis import _versioned_fv_name
        from redis.connection import Connection

        name = _versioned_fv_name(view, self.config)
        _, fields = self.store._generate_hset_keys_for_features(view, list(features), fv_name_override=name)
        connection: Any = Connection()  # type: ignore[no-untyped-call] # it never connects
        pack = connection.pack_command

        def command(key: EntityKey) -> bytes:
            (stored,) = self.store._generate_redis_keys_for_entities(self.config, [key])
            return b"".join(pack("HMGET", stored, *fields))

        return command

    def read(self, commands: Sequence[bytes]) -> list[Fields | Exception]:
        """A row for each command, in order; in place of one that Redis refuses, the refusal.

        Raises:
            redis.RedisError, OSError: Redis cannot be reached.
        """
        pool = self.store._get_client(self.config.online_store).connection_pool
        connection = pool.get_connection()
        try:
            found: list[Fields | Exception] = connection.retry.call_with_retry(
                lambda: _exchange(connection, commands), lambda _: connection.disconnect()
            )
            return found
        finally:
            pool.release(connection)


def _exchange(connection: Any, commands: Sequence[bytes]) -> list[Fields | Exception]:
    """Send commands at once and read what comes back."""
    from redis.exceptions import ResponseError

    connection.send_packed_command([b"".join(commands)])
    response = connection.read_response
    found: list[Fields | Exception] = []
    for _ in commands:
        try:
            found.append(response(disable_decoding=True))
        except ResponseError as refusal:
            found.append(refusal)
    return found

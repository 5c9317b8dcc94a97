"""`ModelDeployment.spec.traffic`: who gets which version, and what the front door lets through.

Every field here becomes a part of Envoy's configuration; nothing is listed that is not built. The defaults serve one
version to everyone.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from serinus.core.spec.common import Name, SpecModel
from serinus.core.spec.rules import cel, milliseconds, must
from serinus.core.times import Duration, PositiveDuration

_RESERVED = ("x-envoy-", "x-serinus-")
_OWN = ("x-serinus-version",)
_HEADER_WORDS = "a header name that does not begin with x-envoy- or x-serinus-: Envoy and Serinus use those"


def _version(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        # Pydantic reports one error a member of the union; a reader wants one.
        raise ValueError("a registry version (1 or more), champion or challenger") from None


def _header(value: str) -> str:
    if value.startswith(_RESERVED) and value not in _OWN:
        raise ValueError(_HEADER_WORDS)
    return value


Version = Annotated[
    Annotated[int, Field(ge=1)] | Literal["champion", "challenger"],
    WrapValidator(_version),
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
Percent = Annotated[float, Field(ge=0, le=100)]
Header = Annotated[
    Name,
    AfterValidator(_header),
    Field(json_schema_extra=cel(f"self in {list(_OWN)} || !self.matches('^({'|'.join(_RESERVED)})')", _HEADER_WORDS)),
]


class Canary(SpecModel):
    """A second version beside the stable one."""

    version: Version
    """A registry version, or the alias that names one: `champion` or `challenger`."""
    weight: Percent = 0
    """Percent of the requests that it answers, in steps of 0.01; with 0 it is up, and waits."""
    shadow: Percent = 0
    """Percent of the requests that it gets a copy of, in steps of 0.01; its answers to them are thrown away."""

    @must(
        "either a weight or a shadow: a request that the canary answers is no good as a copy too",
        cel="self.weight == 0.0 || self.shadow == 0.0",
    )
    def _one_of_them(self) -> bool:
        return not (self.weight and self.shadow)


class Sticky(SpecModel):
    """Who gets the canary, for comparisons that follow users."""

    header: Header
    """Requests with the same value of this header get the same version, as long as the canary and its weight stay; a
    growing weight only adds to those who get the canary. Who that is, is drawn anew for each canary. Requests without
    the header are split at random."""


class Limits(SpecModel):
    """Circuit breakers: what each version may hold at once. More than that is refused with 503 at once."""

    connections: Annotated[int, Field(ge=1, le=65535)] = 1024
    """Connections to the version's server."""
    requests: Annotated[int, Field(ge=1, le=65535)] = 4096
    """Requests under way."""
    waiting: Annotated[int, Field(ge=1, le=65535)] = 4096
    """Requests that wait for a connection."""


class Quota(SpecModel):
    """How many requests for predictions each client may send; more are answered with 429 and Retry-After."""

    requests: Annotated[int, Field(ge=1, le=10_000_000)]
    """Requests in a period; so many may also come at once."""
    per: PositiveDuration = timedelta(seconds=1)
    """The period."""
    client_header: Header = "x-client-id"
    """Each value of this header has a quota of its own; all requests without the header share one."""
    clients: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Clients that are told apart at most; beyond it, who was not seen for longest starts with a fresh quota."""

    @must("a period of at least 50ms", cel=f"{milliseconds('self.per')} >= 50")
    def _countable(self) -> bool:
        return self.per >= timedelta(milliseconds=50)


class Drain(SpecModel):
    """How the front door closes when it is told to end."""

    notice: Duration = timedelta(seconds=1)
    """How long it says that it is not ready, but still takes requests, so that balancers turn away first."""
    limit: PositiveDuration = timedelta(seconds=10)
    """How long requests under way may then take to end."""

    @must(
        "notice and limit of two minutes together at most",
        cel=f"{milliseconds('self.notice')} + {milliseconds('self.limit')} <= 120000",
    )
    def _bounded(self) -> bool:
        return self.notice + self.limit <= timedelta(minutes=2)


class Traffic(SpecModel):
    """Who gets which version, and what the front door lets through."""

    canary: Canary | None = None
    """A second version beside the stable one."""
    version_header: Header | None = "x-serinus-version"
    """A request with this header goes to the version it names: `stable`, `canary` or a number; one that is not up is
    404. Null turns it off."""
    sticky: Sticky | None = None
    """Who gets the canary, for comparisons that follow users; at random where not given."""
    fallback: bool = True
    """What a version could not be asked, the other one answers, if it has a weight too. A request that asked for a
    version by name is not answered by another."""
    limits: Limits = Limits()
    """Circuit breakers: what each version may hold at once."""
    quota: Quota | None = None
    """How many requests for predictions each client may send; no limit where not given."""
    maximum_body: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 10 * 1024 * 1024
    """Bytes of a request's body; more is answered with 413."""
    deadline_header: Header | None = "x-request-timeout-ms"
    """Milliseconds that the client will wait, `predictor.timeout` at most: then it gets 504. gRPC clients use their
    deadline. Null turns it off."""
    drain: Drain = Drain()
    """How the front door closes when it is told to end."""

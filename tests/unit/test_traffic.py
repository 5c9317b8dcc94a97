"""`spec.traffic`: what a user may write, and how shares become weights."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from serinus.cli import app
from serinus.control.shares import require_share, shared
from serinus.control.state import Canary as Up
from serinus.core.errors import InvalidInput, InvalidSpec
from serinus.core.spec import ModelDeployment, parse_resources
from serinus.core.spec.traffic import Traffic
from serinus.engines.envoy import Backend, Door


def read(traffic: Any) -> Traffic:
    document = {
        "apiVersion": "serinus.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "flights"},
        "spec": {"model": {"name": "flights"}, "traffic": traffic},
    }
    (found,) = parse_resources([document], {"ModelDeployment": ModelDeployment}, "serinus.yaml")
    assert isinstance(found, ModelDeployment)
    return found.spec.traffic


def test_nothing_written_serves_one_version_to_everyone() -> None:
    found = read({})
    assert found == Traffic()
    assert (found.canary, found.quota, found.sticky) == (None, None, None)
    assert found.fallback


def test_everything_written_is_read() -> None:
    found = read(
        {
            "canary": {"version": "challenger", "weight": 2.5},
            "versionHeader": None,
            "sticky": {"header": "x-user-id"},
            "fallback": False,
            "limits": {"connections": 10, "requests": 20, "waiting": 30},
            "quota": {"requests": 100, "per": "1m", "clientHeader": "x-api-key", "clients": 500},
            "maximumBody": 4096,
            "deadlineHeader": "x-deadline-ms",
            "drain": {"notice": "0s", "limit": "30s"},
        }
    )
    assert found.canary is not None
    assert (found.canary.version, found.canary.weight) == ("challenger", 2.5)
    assert found.version_header is None
    assert found.quota is not None
    assert found.quota.per == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("traffic", "words"),
    [
        ({"canary": {"weight": 10}}, "traffic.canary.version"),
        ({"canary": {"version": 0}}, "a registry version"),
        ({"canary": {"version": 4, "weight": 101}}, "a number of at most 100"),
        ({"canary": {"version": 4, "weight": -1}}, "a number of at least 0"),
        ({"canary": {"version": 4, "weight": 10, "shadow": 10}}, "either a weight or a shadow"),
        ({"sticky": {"header": "X-User-Id"}}, "lower-case letters"),
        ({"sticky": {"header": ":path"}}, "lower-case letters"),
        ({"versionHeader": "x-envoy-max-retries"}, "does not begin with x-envoy-"),
        ({"deadlineHeader": "x-serinus-protocol"}, "does not begin with x-envoy- or x-serinus-"),
        ({"quota": {"per": "1s"}}, "quota.requests"),
        ({"quota": {"requests": 1, "per": "10ms"}}, "a period of at least 50ms"),
        ({"drain": {"limit": "5m"}}, "two minutes together"),
        ({"maximumBody": "10MB"}, "a whole number"),
        ({"canaries": []}, "an unknown field"),
    ],
)
def test_mistakes_are_said_with_what_is_allowed(traffic: Any, words: str) -> None:
    with pytest.raises(InvalidSpec) as told:
        read(traffic)
    assert words in str(told.value)


def door() -> Door:
    backends = tuple(
        Backend(version=version, port=version, management_port=version, weight=7, shadow=7, metadata={})
        for version in (1, 2, 3)
    )
    return Door(
        model="m",
        port=1,
        admin=Path("a"),
        folder=Path("f"),
        sidecar_port=2,
        timeout=timedelta(seconds=1),
        backends=backends,
        stable=3,
        revision=4,
    )


@given(st.floats(0, 100))
def test_shares_are_all_of_the_requests_and_others_get_nothing(weight: float) -> None:
    found = shared(door(), 1, Up(version=2, digest="", weight=weight))
    assert {each.version: each.weight for each in found.backends} == {1: 100 - weight, 2: weight, 3: 0}
    assert {each.shadow for each in found.backends} == {0}
    assert (found.stable, found.canary, found.revision) == (1, 2, 5)


def test_without_a_canary_the_stable_version_has_all() -> None:
    found = shared(door(), 2, None)
    assert {each.version: each.weight for each in found.backends} == {1: 0, 2: 100, 3: 0}
    assert found.canary is None


@pytest.mark.parametrize(("weight", "shadow"), [(-1, 0), (0, 100.5), (5, 5), (float("nan"), 0)])
def test_shares_that_make_no_sense_are_refused(weight: float, shadow: float) -> None:
    with pytest.raises(InvalidInput, match="allowed"):
        require_share(weight, shadow)


def test_a_share_is_not_promoted() -> None:
    told = CliRunner().invoke(app(), ["deploy", "4", "--weight", "5", "--promote"])
    assert isinstance(told.exception, InvalidInput)

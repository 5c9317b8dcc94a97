"""What the front door's headers say about a request: never a reason to fail, and never an early end."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.serve.arrival import Raw, arrivals, copies_of

NAMES = ("x-serinus-start", "x-serinus-received", "x-envoy-expected-rq-timeout-ms", "x-envoy-attempt-count",
         "grpc-timeout", "x-serinus-shadow")  # fmt: skip


def raw(**headers: str) -> Raw:
    given = {"start": "1000.5", "received": "0", "left": "200", "attempt": "1"} | headers
    names = {"start": NAMES[0], "received": NAMES[1], "left": NAMES[2], "attempt": NAMES[3], "grpc": NAMES[4]}
    return Raw({names[name]: value for name, value in given.items() if value}, b"")


@pytest.mark.parametrize(
    ("headers", "deadline"),
    [
        ({}, 1000.7),
        ({"received": "1300"}, 1002.0),
        ({"received": ""}, 1000.7),
        ({"left": ""}, math.inf),
        ({"start": ""}, math.inf),
        ({"attempt": "2"}, math.inf),
        ({"attempt": ""}, 1000.7),
        ({"grpc": "50m"}, 1000.55),
        ({"grpc": "1H"}, 1000.7),
        ({"grpc": "2S", "left": ""}, 1002.5),
        ({"grpc": "50x"}, math.inf),
        ({"start": "yesterday"}, math.inf),
        ({"left": "soon"}, math.inf),
        ({"left": "nan"}, math.inf),
        ({"left": "-5"}, math.inf),
        ({"received": "-"}, math.inf),
    ],
)
def test_the_deadline_runs_from_when_the_request_was_there(headers: dict[str, str], deadline: float) -> None:
    assert arrivals([raw(**headers)]).until == [pytest.approx(deadline)]


def test_waits_are_those_of_requests_that_came_through_the_door() -> None:
    found = arrivals([raw(), Raw({}, b""), raw(start="1002"), raw(start="x"), raw(start="-1e9"), raw(start="1")])
    assert found.waits(1001.0) == [0.5, 0.0, 1000.0]
    assert found.waits(9e9) == [3600.0] * 3


TEXTS = st.text(max_size=8) | st.floats().map(str) | st.sampled_from(["1e400", "-0", "1m", "m", "nan", "inf"])


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, TEXTS)), max_size=5))
def test_whatever_the_headers_are_there_is_an_answer(headers: list[dict[str, Any]]) -> None:
    raws = [Raw(each, b"") for each in headers]
    found = arrivals(raws)
    assert len(found.until) == len(raws)
    assert all(each == each for each in found.until)
    assert all(0 <= each <= 3600 for each in found.waits(1e9))
    copies = [NAMES[5] in each for each in headers]
    assert copies_of(raws) == (copies if any(copies) else None)

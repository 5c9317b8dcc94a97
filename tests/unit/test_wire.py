"""Batches between TorchServe's front end and its worker: what TorchServe's own functions read and write."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.serve import wire
from serinus.serve.answers import Answer

pytestmark = pytest.mark.filterwarnings("ignore:pkg_resources is deprecated")


class Socket:
    """Hands out a message in pieces, as a socket may."""

    def __init__(self, content: bytes, pieces: list[int]) -> None:
        self.content = content
        self.pieces = pieces

    def recv(self, size: int) -> bytes:
        take = min(size, self.pieces.pop() if self.pieces else size)
        found, self.content = self.content[:take], self.content[take:]
        return found


def counted(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


END = struct.pack("!i", -1)
TEXT = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=8)
REQUESTS = st.fixed_dictionaries(
    {
        "id": st.uuids().map(lambda found: str(found).encode()),
        "headers": st.dictionaries(TEXT.map(str.lower), st.text(max_size=8), max_size=5),
        "body": st.none() | st.binary(max_size=40) | st.integers(1, 30).map(lambda size: b"\xff" * size),
        "other": st.none() | st.binary(max_size=5),
    }
)


def message(requests: list[dict[str, Any]]) -> bytes:
    """As TorchServe's front end writes a batch, without the command byte."""
    content = b""
    for each in requests:
        content += counted(each["id"])
        for name, value in each["headers"].items():
            content += counted(name.title().encode()) + counted(value.encode())
        content += END
        for name in ("other", "body"):
            if each[name] is not None:
                content += counted(name.encode()) + counted(b"application/octet-stream") + counted(each[name])
        content += END
    return content + END


@given(requests=st.lists(REQUESTS, min_size=1, max_size=4), pieces=st.lists(st.integers(1, 50), max_size=30))
def test_a_batch_is_read_as_torchserve_reads_it(requests: list[dict[str, Any]], pieces: list[int]) -> None:
    from ts.protocol import otf_message_handler

    content = message(requests)
    theirs = [otf_message_handler._retrieve_request(Socket(content, [])) for _ in requests[:1]]
    batch = wire.receive(Socket(content, pieces))
    assert batch.ids == [each["id"] for each in requests]
    assert [raw.body for raw in batch.requests] == [each["body"] for each in requests]
    assert [dict(raw.headers) for raw in batch.requests] == [each["headers"] for each in requests]
    assert bytes(theirs[0]["requestId"]) == batch.ids[0]
    assert {
        header["name"].decode().lower(): header["value"].decode() for header in theirs[0]["headers"]
    } == batch.requests[0].headers


@given(
    answers=st.lists(
        st.builds(
            Answer,
            st.sampled_from([200, 400, 422, 500, 503]),
            st.dictionaries(st.sampled_from(["content-type", "x-a", "retry-after"]), TEXT, max_size=3),
            st.binary(max_size=60),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_answers_are_written_as_torchserve_writes_them(answers: list[Answer]) -> None:
    from http import HTTPStatus

    from ts.context import Context, RequestProcessor
    from ts.protocol.otf_message_handler import create_predict_response

    ids = {at: f"request-{at}" for at in range(len(answers))}
    context = Context("m", "d", {}, 1, None, "0")
    context.request_processor = [RequestProcessor({}) for _ in answers]
    context.stopping_criteria = None
    for at, answer in enumerate(answers):
        context.set_response_status(answer.status, HTTPStatus(answer.status).phrase, at)
        for name, value in answer.headers.items():
            context.set_response_header(at, name, value)
    bodies = [answer.body for answer in answers]
    theirs = create_predict_response(bodies, ids, "Prediction success", 200, context=context)
    assert wire.encode([name.encode() for name in ids.values()], answers) == bytes(theirs)


def test_a_front_end_that_goes_away_ends_the_worker() -> None:
    with pytest.raises(SystemExit):
        wire.receive(Socket(message([{"id": b"a", "headers": {}, "body": b"x", "other": None}])[:-3], []))


@pytest.mark.parametrize("content", [message([]) + b"\0" + END * 2, struct.pack("!i", -7) + END * 2])
def test_a_message_of_another_form_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"after the end|a length of -7"):
        wire.receive(Socket(content, []))

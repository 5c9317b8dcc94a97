"""TorchServe's protocol between front end and worker, a batch at a time.

TorchServe's own reader asks the socket for every four bytes apart and builds objects that are taken apart again: some
60 microseconds a request, more than lookup and model together. This reads the same messages in bulk and writes the
same answers. It takes the place of TorchServe's functions in the version it was written for, and of no other.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from struct import Struct
from typing import Any, NamedTuple

from serinus.serve.answers import Answer
from serinus.serve.arrival import Raw
from serinus.serve.codec import Lowered

log = logging.getLogger(__name__)

TORCHSERVE = "0.12.0"
_INT = Struct("!i")
_END = -1
# What a batch ends with: no more parts, no more requests.
_LAST = b"\xff" * 8
_CHUNK = 1 << 16
_HEAD = _INT.pack(200) + _INT.pack(len(b"Prediction success")) + b"Prediction success"
_NAMES: dict[bytes, str] = {}
_NAMES_LIMIT = 1000


class Batch(NamedTuple):
    """Requests with their ids. Names of headers are in lower case."""

    ids: list[bytes]
    requests: list[Raw]


class Incomplete(Exception):
    """The message goes on beyond what has arrived."""


def install(answer: Callable[[list[Raw]], Sequence[Answer]]) -> bool:
    """Let TorchServe's worker in this process read batches by `receive` and answer them by `answer`.

    Returns:
        Whether it was done: only inside a worker of the known version.
    """
    import ts
    from ts.protocol import otf_message_handler
    from ts.service import Service

    if ts.__version__.strip() != TORCHSERVE:
        log.warning("TorchServe %s is not %s: its own, slower protocol reader is used", ts.__version__, TORCHSERVE)
        return False

    def predict(_service: Any, batch: Batch) -> bytes:
        return encode(batch.ids, answer(batch.requests))

    otf_message_handler._retrieve_inference_msg = receive
    Service.predict = predict
    return True


def receive(connection: Any) -> Batch:
    """Read a batch after its command byte. The front end sends the next one only when this one has been answered."""
    gathered = bytearray()
    while content := connection.recv(_CHUNK):
        gathered += content
        if gathered.endswith(_LAST):
            with suppress(Incomplete):  # a body may look like the end
                return parse(bytes(gathered))
    log.info("the front end closed the connection")
    sys.exit(0)


def parse(content: bytes) -> Batch:
    """The requests of a whole message.

    Raises:
        Incomplete: it is not whole.
        ValueError: something follows it.
    """
    size = len(content)
    ids: list[bytes] = []
    requests: list[Raw] = []
    position = 0
    while True:
        name, position = _field(content, position, size)
        if name is None:
            break
        headers, position = _headers(content, position, size)
        body, position = _body(content, position, size)
        ids.append(name)
        requests.append(Raw(headers, body))
    if position != size:
        raise ValueError(f"{size - position} bytes after the end of a batch")
    return Batch(ids, requests)


def _field(content: bytes, position: int, size: int) -> tuple[bytes | None, int]:
    """A length and as many bytes, or None at the end of a list; and where the next begins."""
    start = position + 4
    if start > size:
        raise Incomplete
    (length,) = _INT.unpack_from(content, position)
    if length < 0:
        return None, _after_list(length, start)
    end = start + length
    if end > size:
        raise Incomplete
    return content[start:end], end


def _after_list(length: int, position: int) -> int:
    if length != _END:
        raise ValueError(f"a length of {length} at byte {position - 4}")
    return position


def _headers(content: bytes, position: int, size: int) -> tuple[Lowered, int]:
    headers = Lowered()
    unpack = _INT.unpack_from
    while True:
        start = position + 4
        if start > size:
            raise Incomplete
        (length,) = unpack(content, position)
        if length < 0:
            return headers, _after_list(length, start)
        middle = start + length
        after = middle + 4
        if after > size:
            raise Incomplete
        position = after + unpack(content, middle)[0]
        if not after <= position <= size:
            raise Incomplete
        name = content[start:middle]
        headers[_NAMES.get(name) or _lowered(name)] = content[after:position].decode("utf-8", "replace")


def _lowered(name: bytes) -> str:
    lowered = name.decode("utf-8", "replace").lower()
    if len(_NAMES) < _NAMES_LIMIT:
        _NAMES[name] = lowered
    return lowered


def _body(content: bytes, position: int, size: int) -> tuple[bytes | None, int]:
    """The part named `body`, of all parts."""
    body = None
    while True:
        name, position = _field(content, position, size)
        if name is None:
            return body, position
        _, position = _field(content, position, size)  # its content type
        value, position = _field(content, position, size)
        if name == b"body":
            body = value


def encode(ids: Sequence[bytes], answers: Sequence[Answer]) -> bytes:
    """The message that answers a batch."""
    parts = [_HEAD]
    pack = _INT.pack
    for name, answer in zip(ids, answers, strict=True):
        prefix = _prefix(answer.status, tuple(answer.headers.items()))
        parts += (pack(len(name)), name, prefix, pack(len(answer.body)), answer.body)
    parts.append(_LAST[:4])
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _prefix(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    """Content type, status and headers of an answer."""
    words = [dict(headers).get("content-type", ""), HTTPStatus(status).phrase]
    kind, phrase = (_INT.pack(len(word.encode())) + word.encode() for word in words)
    pairs = [_INT.pack(len(word.encode())) + word.encode() for pair in headers for word in pair]
    return b"".join([kind, _INT.pack(status), phrase, _INT.pack(len(headers)), *pairs])

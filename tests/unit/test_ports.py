"""Ports that are free, and ports that are not."""

from __future__ import annotations

import os
import socket

import pytest

from serinus.core.errors import Conflict
from serinus.engines.ports import free_ports, is_free, require_free


def test_free_ports_are_distinct_and_free() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    assert all(is_free(port) for port in found)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_refused_with_its_holder(address: str) -> None:
    with socket.socket() as server:
        server.bind((address, 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(Conflict, match=rf"port {port} is taken by .*\(pid {os.getpid()}\)"):
            require_free(port)
    require_free(port)

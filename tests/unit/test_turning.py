"""A process that stops listening loses nobody who has connected: a real one, with a queue of clients."""

import socket
import subprocess
import sys

import pytest

from serinus.serve.turning import turn_away

SLOW = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", 0), backlog=64)
print(server.getsockname()[1], flush=True)
sys.stdin.readline()
while True:
    client, _ = server.accept()
    client.sendall(b"taken")
"""


def test_who_waits_is_taken_and_nobody_else_gets_in():
    with subprocess.Popen([sys.executable, "-c", SLOW], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            address = ("127.0.0.1", int(process.stdout.readline()))
            waiting = [socket.create_connection(address, 5) for _ in range(20)]
            process.stdin.write(b"go\n")
            process.stdin.flush()
            turn_away(process.pid)
            for each in waiting:
                each.settimeout(5)
                assert each.recv(5) == b"taken"
                each.close()
            with pytest.raises(TimeoutError):
                socket.create_connection(address, 0.2)
        finally:
            process.kill()


def test_a_process_that_is_gone_is_no_error():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        turn_away(process.pid)

"""A lock between processes: one at a time, and free when its holder dies."""

import signal
import subprocess
import sys
from pathlib import Path

from serinus.engines.locks import file_lock

HOLD = """
import pathlib, signal, sys
from serinus.engines.locks import file_lock
with file_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""
TAKE = """
import pathlib, sys
from serinus.engines.locks import file_lock
print("waiting", flush=True)
with file_lock(pathlib.Path(sys.argv[1])):
    print("taken", flush=True)
"""


def started(code: str, path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)


def test_one_waits_until_the_holder_dies(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "ingest.lock"
    holder = started(HOLD, path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiter = started(TAKE, path)
    try:
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "waiting\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
        assert waiter.communicate(timeout=30)[0] == "taken\n"
    finally:
        for each in (holder, waiter):
            each.kill()
            each.wait()
            each.stdout.close()


def test_it_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with file_lock(tmp_path / "ingest.lock"):
            assert (tmp_path / "ingest.lock").exists()

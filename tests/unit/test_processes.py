"""Our processes are told from others, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from serinus.engines.processes import MARK, ProcessId, command_line, end, is_alive, marked, memory
from tests.support import eventually

SLEEP = "import time; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); {SLEEP}"


def child(code: str, mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, MARK: mark}, stdout=subprocess.PIPE)


def test_only_processes_with_the_mark_are_found_and_ended() -> None:
    with child(SLEEP, "one") as ours, child(SLEEP, "other") as theirs:
        found = eventually(lambda: marked("one"))
        assert [each.pid for each in found] == [ours.pid]
        end(found)
        assert ours.wait(10) == -signal.SIGTERM
        assert theirs.poll() is None
        assert marked("one") == []
        theirs.kill()


def test_one_that_ignores_the_request_is_killed() -> None:
    with child(STUBBORN, "stubborn") as process:
        assert process.stdout is not None
        process.stdout.readline()
        end(marked("stubborn"), grace_seconds=0.2)
        assert process.wait(10) == -signal.SIGKILL


def test_a_later_process_with_the_same_id_is_not_ours() -> None:
    own = ProcessId.of(os.getpid())
    assert own is not None
    assert is_alive(own)
    assert command_line(own)
    earlier = own.model_copy(update={"started": own.started - 1})
    assert not is_alive(earlier)
    assert command_line(earlier) == []
    end([earlier])  # sends nothing: this test goes on


def test_one_that_ended_and_was_not_waited_for_is_not_alive() -> None:
    process = child("pass", "brief")
    found = ProcessId.of(process.pid)
    assert found is not None
    eventually(lambda: not is_alive(found))
    process.communicate()


def test_memory_counts_the_descendants() -> None:
    own = memory(os.getpid())
    with child(f"x = bytearray(80_000_000); print(1, flush=True); {SLEEP}", "large") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert memory(os.getpid()) > own + 70_000_000
        process.kill()
    assert memory(2**30) == 0

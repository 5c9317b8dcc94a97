"""KFP's local runner behind `run_local`: events, logs, caching, errors. A pipeline of three small steps stands in."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from serinus.core.errors import Conflict, EngineError, InvalidData, InvalidInput
from serinus.core.platform import Platform
from serinus.engines.kfp import StepFailed, run_local
from serinus.engines.kfp_compile import compile_pipeline
from serinus.engines.kfp_prune import prune
from serinus.engines.kfp_watch import StepEvent
from tests.support import eventually
from tests.support_pipeline import small


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform.local(tmp_path / "state")


def statuses(result) -> dict[str, str]:
    return {step.name: step.status for step in result.steps}


def test_a_run_gives_outputs_events_and_a_log_a_step(platform, capfd):
    events: list[StepEvent] = []
    result = run_local(small(), {"text": "hello", "mode": "well"}, platform, "first", events.append)

    assert result.outputs["length"] == 5
    assert Path(result.outputs["words"], "words.txt").read_text() == "hello"
    assert statuses(result) == {"write": "ran", "count": "ran", "act": "ran"}
    written = [(event.type, event.text) for event in events if event.step == "write"]
    assert written == [("started", ""), ("progress", "half"), ("progress", "5 letters"), ("finished", "5 letters")]
    log = (result.folder / "write.log").read_text()
    assert "a line of the step" in log
    assert "a log line" in log
    assert "chatter of an engine" not in log
    assert capfd.readouterr().out == ""


def test_a_second_run_computes_only_what_is_never_cached(platform):
    arguments = {"text": "hello", "mode": "well"}
    run_local(small(), arguments, platform, "first")
    second = run_local(small(), arguments, platform, "second")
    changed = run_local(small(), arguments | {"text": "bye"}, platform, "third")

    assert statuses(second) == {"write": "cached", "count": "cached", "act": "ran"}
    assert second.outputs["length"] == 5
    assert statuses(changed) == {"write": "ran", "count": "ran", "act": "ran"}


@pytest.mark.parametrize("damage", ["cut", "removed", "emptied", "added"])
def test_a_damaged_result_is_made_again(platform, damage):
    arguments = {"text": "hello", "mode": "well"}
    first = run_local(small(), arguments, platform, "first")
    words = Path(first.outputs["words"]) / "words.txt"
    if damage == "cut":
        words.write_text("hel")
    elif damage == "removed":
        words.unlink()
        words.parent.rmdir()
    elif damage == "emptied":
        words.unlink()
    else:
        (words.parent / "more.txt").write_text("x")

    second = run_local(small(), arguments, platform, "second")
    assert statuses(second)["write"] == "ran"
    assert Path(second.outputs["words"], "words.txt").read_text() == "hello"


def test_old_runs_go_but_not_what_later_ones_reuse(platform, monkeypatch):
    monkeypatch.setattr("serinus.engines.kfp.prune", partial(prune, kept=2))
    texts = {"first": "hello", "second": "bye", "third": "hello", "fourth": "so long", "fifth": "hello"}
    runs = {name: run_local(small(), {"text": text, "mode": "well"}, platform, name) for name, text in texts.items()}
    assert statuses(runs["fifth"]) == {"write": "cached", "count": "cached", "act": "ran"}
    there = {path.name for path in Path(platform.pipeline_root).iterdir() if not path.name.startswith(".")}
    assert there == {"first", "third", "fourth", "fifth"}


def test_an_error_of_ours_comes_through_with_its_class(platform):
    with pytest.raises(InvalidData) as caught:
        run_local(small(), {"text": "hello", "mode": "refuse"}, platform, "first")
    assert caught.value.message == "write: the text is refused"
    assert caught.value.hint.startswith("send another; ")
    assert str(Path(platform.pipeline_root) / "first" / "write.log") in caught.value.hint
    assert caught.value.exit_code == 2


def test_what_was_computed_before_a_failure_is_not_computed_again(platform):
    with pytest.raises(StepFailed):
        run_local(small(), {"text": "hello", "mode": "well", "last": "crash"}, platform, "first")
    repeated = run_local(small(), {"text": "hello", "mode": "well"}, platform, "second")
    assert statuses(repeated) == {"write": "cached", "count": "cached", "act": "ran"}


def test_a_crash_shows_the_last_lines(platform):
    with pytest.raises(StepFailed, match=r"the step write failed: ZeroDivisionError: .*write\.log") as caught:
        run_local(small(), {"text": "hello", "mode": "crash"}, platform, "first")
    assert len(caught.value.tail) <= 30
    assert any("Traceback" in line for line in caught.value.tail)
    assert isinstance(caught.value, EngineError)


def test_a_killed_step_is_told(platform):
    with pytest.raises(StepFailed, match="the step write failed"):
        run_local(small(), {"text": "hello", "mode": "die"}, platform, "first")


def test_nothing_is_left_set_up(platform, tmp_path):
    root, out, environment = logging.getLogger(), sys.stdout, dict(os.environ)
    before = (root.level, list(root.handlers), list(root.filters))
    run_local(small(), {"text": "hello", "mode": "well"}, platform, "first")
    assert (root.level, list(root.handlers), list(root.filters)) == before
    assert sys.stdout is out
    assert dict(os.environ) == environment
    compile_pipeline(small(), tmp_path / "small.yaml")  # would run it, were local execution still set up


def test_two_runs_of_one_folder_conflict(platform):
    started, go_on = threading.Event(), threading.Event()

    def wait(event: StepEvent) -> None:
        started.set()
        go_on.wait(60)

    arguments = {"text": "hello", "mode": "well"}
    other = threading.Thread(target=run_local, args=(small(), arguments, platform, "first", wait))
    other.start()
    try:
        assert started.wait(60)
        with pytest.raises(Conflict, match=f"process {os.getpid()}"):
            run_local(small(), arguments, platform, "second")
    finally:
        go_on.set()
        other.join()


def test_a_name_is_used_once(platform):
    run_local(small(), {"text": "hello", "mode": "well"}, platform, "first")
    with pytest.raises(Conflict, match="there was a run first already"):
        run_local(small(), {"text": "hello", "mode": "well"}, platform, "first")


def test_paths_that_kfp_would_garble_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="python3"):
        run_local(small(), {"text": "a", "mode": "b"}, Platform.local(tmp_path / "my-python3-things"), "first")
    with pytest.raises(InvalidInput, match="KFP cannot pass text"):
        run_local(small(), {"text": "/usr/lib/python3/x", "mode": "b"}, Platform.local(tmp_path), "first")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_ending_the_run_ends_the_running_step(platform, tmp_path, how):
    note = tmp_path / "pid"
    script = (
        "import sys\n"
        "from serinus.core.platform import Platform\n"
        "from serinus.engines.kfp import run_local\n"
        "from tests.support_pipeline import small\n"
        "from pathlib import Path\n"
        f"arguments = {{'text': {str(note)!r}, 'mode': 'hang'}}\n"
        f"run_local(small(), arguments, Platform.local(Path({str(platform.state)!r})), 'first')\n"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", script], cwd=root, stderr=subprocess.DEVNULL)
    try:
        step = int(eventually(lambda: note.exists() and note.read_text(), timeout=60))
        began = time.monotonic()
        process.send_signal(how)
        assert process.wait(30) != 0
        assert time.monotonic() - began < 20
        eventually(lambda: not Path(f"/proc/{step}").exists(), timeout=10)
    finally:
        process.kill()
        process.wait()


def test_compiling_twice_gives_the_same_bytes(tmp_path):
    for name in ("one.yaml", "two.yaml"):
        compile_pipeline(small(), tmp_path / name, {"text": "from the compiler"})
    one, two = ((tmp_path / name).read_bytes() for name in ("one.yaml", "two.yaml"))
    assert one == two
    assert b"from the compiler" in one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.yaml", "two.yaml"]


def test_compiling_says_what_is_wrong(tmp_path):
    with pytest.raises(InvalidInput, match=r"end it with \.yaml"):
        compile_pipeline(small(), tmp_path / "pipeline.json")
    with pytest.raises(InvalidInput, match="cannot be compiled"):
        compile_pipeline(small(), tmp_path / "small.yaml", {"unknown": 1})
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == "[]"

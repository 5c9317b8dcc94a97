"""Following a run: what the server and the pods tell, look by look, becomes the events of a run on this machine.

The engine and the logs are played: a real server cannot be made to tell a given story, and tests/cluster/pipelines asks
a real one.
"""

from datetime import UTC, datetime

import pytest

from serinus.control import submit
from serinus.control.submit import Follower
from serinus.core.errors import EngineError, InvalidData
from serinus.engines.kfp_cluster import ClusterRun, Task
from serinus.engines.kfp_step import Message
from serinus.engines.kubernetes_logs import Line

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = frozenset({"ingest", "gate"})


def run(state: str, *tasks: Task) -> ClusterRun:
    return ClusterRun("1", "tiny-1", state, NOW, None, "", tasks)


def said(step: str, what: str, text: str, **more: str) -> Line:
    return Line(step, f"[KFP] {Message(type=what, text=text, **more).line()}")


class Story:
    """One look after another; an error is raised."""

    def __init__(self, *looks):
        self.looks = list(looks)

    def get(self, run):
        found = self.looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def new(self):
        return iter(self.looks.pop(0) if self.looks else ())


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch):
    monkeypatch.setattr(submit, "EVERY_SECONDS", 0.0)


def test_a_run_is_told_step_by_step():
    engine = Story(
        run("pending"),
        run("running", Task("root-driver", "succeeded"), Task("ingest", "running"), Task("gate", "pending")),
        run("running", Task("ingest", "succeeded", 3.0), Task("gate", "running")),
        run("succeeded", Task("ingest", "succeeded", 3.0), Task("gate", "succeeded", 1.0)),
    )
    logs = Story(
        [],
        [said("ingest", "progress", "half")],
        [Line("ingest", "plain"), said("ingest", "result", "8 rows")],
        [said("gate", "result", "accepted")],
    )
    events, lines = [], []
    follower = Follower(engine, "1", STEPS, events.append, logs, lines.append)
    assert follower.until_over(30).state == "succeeded"
    assert [(each.type, each.step, each.seconds, each.text) for each in events] == [
        ("progress", "ingest", 0.0, "half"),
        ("started", "ingest", 0.0, ""),
        ("finished", "ingest", 3.0, "8 rows"),
        ("started", "gate", 0.0, ""),
        ("finished", "gate", 1.0, "accepted"),
    ]
    assert follower.results == {"ingest": "8 rows", "gate": "accepted"}
    assert lines == [Line("ingest", "plain")]


def test_a_step_that_failed_says_why_in_its_own_error():
    engine = Story(run("failed", Task("ingest", "failed", 2.0)))
    logs = Story([said("ingest", "error", "no rows", kind="InvalidData", hint="mend them")])
    events = []
    follower = Follower(engine, "1", STEPS, events.append, logs)
    assert follower.until_over(30).state == "failed"
    assert [(each.type, each.step) for each in events] == [("started", "ingest"), ("failed", "ingest")]
    assert isinstance(follower.error, InvalidData)
    assert follower.error.hint == "mend them"


def test_a_server_that_is_away_for_a_while_is_asked_again():
    engine = Story(*[EngineError("away")] * 5, run("succeeded"))
    assert Follower(engine, "1", STEPS, print).until_over(30).state == "succeeded"


def test_a_server_that_stays_away_is_told():
    engine = Story(*[EngineError("away")] * 50)
    with pytest.raises(EngineError, match="away"):
        Follower(engine, "1", STEPS, print).until_over(30)


def test_following_ends_though_the_run_does_not():
    class Endless:
        def get(self, run_id):
            return run("running")

    with pytest.raises(EngineError, match="is not over after 0 s"):
        Follower(Endless(), "1", STEPS, print).until_over(0.01)

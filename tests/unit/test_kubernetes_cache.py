"""The copy of a cluster's objects: whatever comes late, twice or not at all, in the end it is what the server has."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from serinus.engines.kubernetes import CONFIG_MAP, POD, Change, Selection
from serinus.engines.kubernetes_cache import OWNER_LABEL, Store

NAMES = st.sampled_from(["a", "b", "c"])
OWNERS = st.sampled_from(["flights", "orders"])


def made(name: str, version: int, owner: str, **rest: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "demo", "labels": {OWNER_LABEL: owner}, "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **rest}


def plain(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "metadata": {key: each for key, each in found["metadata"].items() if key != "resourceVersion"}}


class Copied(RuleBasedStateMachine):
    """A server, a watch that lags behind it, and answers to own writes that come when they come."""

    answers = Bundle("answers")

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(Selection(CONFIG_MAP))
        self.server: dict[str, dict[str, Any]] = {}
        self.history: list[Change] = []
        self.told = 0

    @initialize()
    def listed_first(self) -> None:
        self.list_again()

    def change(self, what: str, name: str, owner: str) -> dict[str, Any]:
        version = len(self.history) + 1
        found = made(name, version, owner, data={"written": str(version)})
        self.history.append(Change(what, found))
        if what == "DELETED":
            self.server.pop(name)
        else:
            self.server[name] = found
        return found

    @rule(target=answers, name=NAMES, owner=OWNERS)
    def write(self, name: str, owner: str) -> dict[str, Any]:
        return self.change("MODIFIED" if name in self.server else "ADDED", name, owner)

    @rule(name=NAMES, owner=OWNERS)
    def somebody_writes(self, name: str, owner: str) -> None:
        self.change("MODIFIED" if name in self.server else "ADDED", name, owner)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if name in self.server:
            self.change("DELETED", name, self.server[name]["metadata"]["labels"][OWNER_LABEL])

    @rule(answer=consumes(answers))
    def own_write_is_answered(self, answer: dict[str, Any]) -> None:
        self.store.wrote(answer)
        if self.server.get(answer["metadata"]["name"]) == answer:
            assert self.store.get("demo", answer["metadata"]["name"]) == plain(answer)

    @rule(times=st.integers(1, 3))
    def watch_tells(self, times: int) -> None:
        for change in self.history[self.told : self.told + times]:
            self.store.saw(change)
            self.told += 1

    @rule()
    def list_again(self) -> None:
        """As after a 410: nothing is told of what happened before."""
        self.store.replace([([*self.server.values()], str(len(self.history)))])
        self.told = len(self.history)

    @invariant()
    def what_has_been_told_is_known(self) -> None:
        if self.told == len(self.history):
            self.same()

    def same(self) -> None:
        for name in ("a", "b", "c"):
            kept = self.server.get(name)
            assert self.store.get("demo", name) == (plain(kept) if kept else None)
        for owner in ("flights", "orders"):
            wanted = [each["metadata"]["name"] for each in self.server.values()]
            wanted = [each for each in wanted if self.server[each]["metadata"]["labels"][OWNER_LABEL] == owner]
            found = self.store.all("demo", {OWNER_LABEL: owner})
            assert [each["metadata"]["name"] for each in found] == sorted(wanted)

    def teardown(self) -> None:
        self.watch_tells(len(self.history))
        self.same()


TestCopied = Copied.TestCase


def test_a_change_of_the_version_alone_is_no_news() -> None:
    store = Store(Selection(CONFIG_MAP))
    store.replace([([made("a", 1, "flights", data={})], "1")])
    assert store.saw(Change("MODIFIED", made("a", 2, "flights", data={}))) == []
    [(before, after)] = store.saw(Change("MODIFIED", made("a", 3, "flights", data={"x": "y"})))
    assert before is not None
    assert "data" in before.found
    assert after is not None
    assert after.found["data"] == {"x": "y"}
    assert store.version == "3"


def test_a_bookmark_moves_the_watch_on() -> None:
    store = Store(Selection(CONFIG_MAP))
    assert store.saw(Change("BOOKMARK", {"metadata": {"resourceVersion": "70"}})) == []
    assert store.version == "70"


def test_whoever_reads_may_change_what_they_read() -> None:
    store = Store(Selection(CONFIG_MAP))
    store.replace([([made("a", 1, "flights", data={"x": "y"})], "1")])
    for _ in range(2):
        found = store.get("demo", "a")
        assert found is not None
        assert found["data"].pop("x") == "y"


def test_of_pods_only_their_state_is_kept() -> None:
    store = Store(Selection(POD))
    status = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": "10.0.0.1"}
    store.replace([([made("a", 1, "flights", spec={"containers": []}, status=status)], "1")])
    found = store.get("demo", "a")
    assert found is not None
    assert "spec" not in found
    assert found["status"] == {"conditions": status["conditions"]}
    assert found["kind"] == "Pod"

"""What rollouts know of a version is read once, however many of them ask at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serinus.control.rollout_versions import Candidates
from serinus.core.errors import EngineError
from serinus.core.rollout import Candidate
from serinus.core.version import ModelVersion
from tests.support_registry import record

READERS = 8
VERSION = ModelVersion(
    name="flights", version=3, archive="flights.mar", digest="sha256:abc", run="r", lineage=record().lineage
)


def test_it_is_read_once() -> None:
    found, begun, go = Candidates(), [], threading.Event()

    def read(version: ModelVersion) -> Candidate:
        begun.append(version.version)
        assert go.wait(10)
        return Candidate(version=version.version, digest=version.digest, expected=(1.0, 2.0))

    with ThreadPoolExecutor(READERS) as pool:
        asked = [pool.submit(found.get, VERSION, read) for _ in range(READERS)]
        go.set()
        answers = {each.result(10) for each in asked}
    assert begun == [3]
    assert answers == {Candidate(version=3, digest=VERSION.digest, expected=(1.0, 2.0))}


def test_a_failure_is_not_remembered() -> None:
    found = Candidates()

    def fail(version: ModelVersion) -> Candidate:
        raise EngineError("the registry does not answer")

    with pytest.raises(EngineError):
        found.get(VERSION, fail)
    known = Candidate(version=3, digest=VERSION.digest)
    assert found.get(VERSION, lambda _: known) == known
    assert found.get(VERSION, fail) == known


def test_the_same_archive_under_another_number_is_another_version() -> None:
    found = Candidates()
    for number in (3, 4):
        version = VERSION.model_copy(update={"version": number})
        assert found.get(version, lambda each: Candidate(version=each.version, digest=each.digest)).version == number

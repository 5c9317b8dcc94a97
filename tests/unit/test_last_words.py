"""What a container failed of is where Kubernetes looks for it, and an error stays an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from serinus.control.pod import last_words
from serinus.core.errors import EngineError

FAILURE = EngineError("version 3 of flights could not be loaded: no module named x", hint="the end of a long log")


def test_the_message_is_left_without_the_hint(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    path.touch()
    with pytest.raises(EngineError), last_words(path):
        raise FAILURE
    assert path.read_text() == "version 3 of flights could not be loaded: no module named x\n"


def test_where_nobody_looks_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    with pytest.raises(EngineError), last_words(path):
        raise FAILURE
    assert not path.exists()
    path.mkdir()
    with pytest.raises(EngineError), last_words(path):
        raise FAILURE


def test_who_ends_well_has_no_last_words(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    path.touch()
    with last_words(path):
        pass
    assert path.read_text() == ""

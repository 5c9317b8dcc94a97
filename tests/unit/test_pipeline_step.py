"""What a step and its runner say to one another: one line, any text, errors with their class."""

from __future__ import annotations

import logging
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serinus.core.errors import EngineError, IntegrityError, InvalidInput, InvalidSpec, Problem
from serinus.engines.kfp_step import MARKER, Message, step

texts = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(autouse=True)
def _logging_as_before():
    root, ours = logging.getLogger(), logging.getLogger("serinus")
    before = (list(root.handlers), root.level, ours.level)
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(False)
    root.handlers, root.level = before[0], before[1]
    ours.setLevel(before[2])


@given(texts, st.none() | texts, st.text(max_size=5))
def test_a_message_survives_as_one_line(text, hint, prefix):
    message = Message(type="error", text=text, kind="InvalidData", hint=hint)
    line = message.line()
    assert len(line.splitlines()) == 1
    assert Message.read(line) == message


@pytest.mark.parametrize("line", ["", "a log line", MARKER, MARKER + "{", MARKER + '{"type": "other", "text": ""}'])
def test_other_lines_are_no_messages(line):
    assert Message.read(line) is None


def test_progress_and_result_are_said(capsys):
    with step() as here:
        here.progress("half")
        here.result("done")
    found = [Message.read(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [Message(type="progress", text="half"), Message(type="result", text="done")]


def test_an_error_is_said_and_raised_on(capsys):
    with pytest.raises(IntegrityError), step():
        raise IntegrityError("it differs", hint="fetch it again")
    told = Message.read(capsys.readouterr().out.strip())
    assert told is not None
    error = told.error()
    assert (type(error), error.message, error.hint) == (IntegrityError, "it differs", "fetch it again")


def test_a_wrong_spec_keeps_its_exit_code_and_problems(capsys):
    wrong = InvalidSpec("serinus.yaml", [Problem(path="spec.x", found="1", allowed="2")])
    with pytest.raises(InvalidSpec), step():
        raise wrong
    told = Message.read(capsys.readouterr().out.strip())
    assert told is not None
    assert type(told.error()) is InvalidInput
    assert "spec.x: found 1, allowed: 2" in told.error().message


@pytest.mark.parametrize("kind", [None, "Strange", "Problem", "annotations", "BaseModel"])
def test_an_unknown_kind_of_error_is_an_engine_error(kind):
    assert type(Message(type="error", text="x", kind=kind).error()) is EngineError


def test_only_our_own_information_is_logged(capsys):
    with step():
        logging.getLogger("serinus.training.fit").info("ours")
        logging.getLogger("some.engine").info("theirs")
        logging.getLogger("some.engine").warning("their warning")
    out = capsys.readouterr().out
    assert "ours" in out
    assert "theirs" not in out
    assert "their warning" in out

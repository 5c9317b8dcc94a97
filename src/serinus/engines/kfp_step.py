"""The part of a pipeline step that runs in the step's own process: plain logs, and words for whoever started it.

A step and the runner share nothing but the step's standard output, on a laptop and in a container alike. So what a
person should see (progress, a result, an error with its advice) is a line of that output: a marker and one JSON object.
Nothing heavy is imported here, as every step pays for it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from serinus.core import errors
from serinus.core.errors import EngineError, InvalidInput, InvalidSpec, SerinusError

MARKER = "::serinus:: "


class Message(BaseModel):
    """What a step says: `progress` while it works, `result` when it is done, `error` when it cannot go on.

    `kind` and `hint` belong to errors: the name of the class in core/errors.py, and what to do.
    """

    model_config = ConfigDict(frozen=True)

    type: Literal["progress", "result", "error"]
    text: str
    kind: str | None = None
    hint: str | None = None

    def line(self) -> str:
        return MARKER + json.dumps(self.model_dump(exclude_none=True))

    @classmethod
    def read(cls, line: str) -> Message | None:
        """The message that a line of output holds, or None for any other line."""
        _, marker, text = line.partition(MARKER)
        if not marker:
            return None
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    def error(self) -> SerinusError:
        """The error that the step raised, with its class and so its exit code."""
        found = getattr(errors, self.kind or "", EngineError)
        known = isinstance(found, type) and issubclass(found, SerinusError)
        # InvalidSpec is made of problems, which its message already holds.
        kind = InvalidInput if found is InvalidSpec else found if known else EngineError
        return kind(self.text, hint=self.hint)


class Step:
    """What a component says while it runs."""

    def progress(self, text: str) -> None:
        """Tell how far the work is, in a few words."""
        _say(Message(type="progress", text=text))

    def result(self, text: str) -> None:
        """Tell what came out, in a few words: it ends the step's line on the screen."""
        _say(Message(type="result", text=text))


@contextmanager
def step() -> Iterator[Step]:
    """Run a component's body: log plainly to standard output, and say why it failed if it did.

    Errors are raised on, so that the step fails and its log ends with the traceback.
    """
    _log_plainly()
    try:
        yield Step()
    except SerinusError as error:
        _say(Message(type="error", text=error.message, kind=type(error).__name__, hint=error.hint))
        raise


def _say(message: Message) -> None:
    sys.stdout.write(message.line() + "\n")
    sys.stdout.flush()


def _log_plainly() -> None:
    # KFP's executor logs everything at INFO under a prefix of 60 characters; engines' chatter is not wanted there.
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s", level="WARNING", force=True)
    logging.getLogger("serinus").setLevel("INFO")
    logging.captureWarnings(True)

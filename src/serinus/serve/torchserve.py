"""Between TorchServe's worker and the predictor: requests out of its context, answers back into it."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serinus.core.errors import InvalidInput, NotFound
from serinus.core.serving import ServingConfig
from serinus.serve import wire
from serinus.serve.answers import Answer
from serinus.serve.arrival import Raw
from serinus.serve.handler import Predictor

log = logging.getLogger(__name__)

CONFIG_VARIABLE = "SERINUS_SERVING"


class Worker:
    """What TorchServe calls: once without data to load the model, then with each batch."""

    def __init__(self) -> None:
        self._predictor: Predictor | None = None

    def handle(self, data: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
        """Answer a batch; each request's status and headers go into the context.

        Raises:
            SerinusError: while loading; TorchServe writes it to its log and starts the worker again.
        """
        if self._predictor is None:
            self._predictor = _load(Path(context.system_properties["model_dir"]))
            _close_at_end(self._predictor)
            wire.install(self.answer)
            _keep_loaded()
        if data is None:
            return None
        # Beside the headers, TorchServe puts the content type of each part of the body in the same mapping.
        answers = self.answer(
            [Raw(_texts(context.get_all_request_header(at)), parts.get("body")) for at, parts in enumerate(data)]
        )
        for at, answer in enumerate(answers):
            context.set_response_status(answer.status, HTTPStatus(answer.status).phrase, at)
            for name, value in answer.headers.items():
                context.set_response_header(at, name, value)
        return [answer.body for answer in answers]

    def answer(self, batch: Sequence[Raw]) -> list[Answer]:
        """Answer a batch of a loaded model; TorchServe asks for a description by a header, one request at a time."""
        assert self._predictor is not None
        if len(batch) == 1 and batch[0].headers.get("describe") == "True":
            return [Answer(200, {"content-type": "application/json"}, self._describe())]
        return self._predictor.handle(batch)

    def _describe(self) -> bytes:
        assert self._predictor is not None
        return self._predictor.signature.model_dump_json().encode()


def _close_at_end(predictor: Predictor) -> None:
    """Let a worker that is told to end write the rows of its log that wait; a killed one loses a tenth of a second."""
    atexit.register(predictor.close)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def _keep_loaded() -> None:
    """Spare what is loaded the search for garbage: going through all of Feast and torch holds up answers for a quarter
    of a second. At the end it is searched again, for libraries complain of what they find left over."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


def _texts(headers: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if type(value) is str}


def read_config(path: Path) -> ServingConfig:
    """
    Raises:
        NotFound: there is no such file.
        InvalidInput: it is not a serving configuration.
    """
    try:
        return ServingConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"there is no serving configuration at {path}") from error
    except ValidationError as error:
        raise InvalidInput(f"{path} is not a serving configuration: {error}") from error


def _load(model_dir: Path) -> Predictor:
    name = os.environ.get(CONFIG_VARIABLE)
    if not name:
        raise NotFound(
            f"the environment variable {CONFIG_VARIABLE} is not set", hint="it names the serving configuration"
        )
    # TorchServe's decoder takes NaN for a number and three times as long as ours: ask for the bytes.
    os.environ["TS_DECODE_INPUT_REQUEST"] = "false"
    # TorchServe writes two lines a batch at level INFO, through a pipe that its front end parses.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("serinus").setLevel(logging.INFO)
    return Predictor.load(read_config(Path(name)), model_dir)

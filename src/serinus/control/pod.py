"""The predictor's pod: the same supervised stack as on a laptop, with one version, reached by others.

It is one container, for the processes must see each other: the sidecar tells live workers from dead ones. What ends the
container ends the stack in order, and a stack whose supervision is gone ends the container.
"""

from __future__ import annotations

import logging
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TextIO
from urllib.parse import parse_qs

from pydantic import ValidationError

from serinus.control import stack
from serinus.control.instance import Exposure, Serving
from serinus.control.stack import Options
from serinus.control.state import RunFolder
from serinus.core.errors import EngineError, IntegrityError, InvalidInput, NotFound, SerinusError
from serinus.core.platform import Platform
from serinus.core.serving import PodConfig
from serinus.core.version import ModelVersion
from serinus.engines.files import write_text
from serinus.engines.mlflow import Registry

log = logging.getLogger(__name__)

SCHEME = "serinus://"
PORT, COPIES_PORT, SIDECAR_PORT = 8080, 8081, 9109
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - a pod's own network
WARM = "warm"
"""File in the run folder of a pod whose version is ready for its first request."""
_VERSION_FILE = "version.json"
# Until every node knows that a pod which ends gets no more requests.
_NOTICE = timedelta(seconds=5)
_READY_SECONDS = 300.0
_EVERY_SECONDS = 0.5


_LAST_WORDS = Path("/dev/termination-log")


@contextmanager
def last_words(path: Path = _LAST_WORDS) -> Iterator[None]:
    """Leave what a container failed of where Kubernetes looks for it, if that is there: `kubectl describe` and the
    operator then show that, and not whatever came last in its log."""
    try:
        yield
    except SerinusError as error:
        with suppress(OSError):
            if path.exists():
                path.write_text(f"{error.message}\n", encoding="utf-8")
        raise


def fetch(registry: Registry, version: ModelVersion, folder: Path) -> Path:
    """Bring a version and what is known of it into a folder.

    Raises:
        IntegrityError: the archive is not the one that was registered.
        EngineError: it could not be had.
    """
    path = registry.fetch(version, folder)
    write_text(folder / _VERSION_FILE, version.model_dump_json())
    return path


def read_source(text: str) -> tuple[str, int | str, str | None]:
    """A model's name, its version or an alias of one, and the digest that it must have, out of `NAME/VERSION` or
    `serinus://NAME/VERSION?digest=DIGEST`.

    Raises:
        InvalidInput: it is neither.
    """
    place, _, query = text.removeprefix(SCHEME).partition("?")
    name, _, version = place.partition("/")
    digests = parse_qs(query).get("digest", [None])
    if not name or not version or "/" in version:
        raise InvalidInput(f"{text} is no model version", hint=f"such as flights/3 or {SCHEME}flights/3?digest=...")
    return name, int(version) if version.isdigit() else version, digests[0]


def read_config(path: Path) -> PodConfig:
    """
    Raises:
        NotFound: there is no such file.
        InvalidInput: it does not say what to serve.
    """
    try:
        return PodConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"there is no {path}", hint="the operator mounts it from a ConfigMap") from error
    except ValidationError as error:
        raise InvalidInput(f"{path} does not say what to serve: {error}") from error


def delivered(config: PodConfig, folder: Path) -> tuple[ModelVersion, Path]:
    """The version that an init container has brought, and its archive.

    Raises:
        NotFound: there is none.
        IntegrityError: it is another one than is to be served.
    """
    try:
        version = ModelVersion.model_validate_json((folder / _VERSION_FILE).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise NotFound(f"there is no model in {folder}", hint="`serinus fetch` brings it there") from error
    if (version.version, version.digest) != (config.version, config.digest):
        raise IntegrityError(
            f"{folder} holds version {version.version} with {version.digest}, "
            f"asked is {config.version} with {config.digest}"
        )
    return version, folder / f"{version.name}-{version.version}.mar"


def run(config: PodConfig, platform: Platform, folder: Path, stop: threading.Event) -> None:
    """Serve until told to stop, then end in order.

    Raises:
        SerinusError: it does not start, or its supervision has died.
    """
    version, archive = delivered(config, folder)
    deployment = config.deployment
    drain = deployment.traffic.drain.model_copy(update={"notice": max(deployment.traffic.drain.notice, _NOTICE)})
    traffic = deployment.traffic.model_copy(update={"canary": None, "drain": drain})
    serving = Serving(
        platform=platform,
        deployment=deployment.model_copy(update={"traffic": traffic, "rollout": None}),
        feature_project=deployment.model.name,
        exposed=Exposure(_EVERYWHERE, COPIES_PORT, SIDECAR_PORT),
    )
    options = Options(port=PORT, ready_seconds=_READY_SECONDS)
    # An earlier container of this pod may have died here; its processes are gone with it.
    shutil.rmtree(RunFolder(platform).path, ignore_errors=True)
    follower = Follower(RunFolder(platform).path / "logs", sys.stdout)
    with follower:
        up = stack.up(serving, version, lambda _, __: archive, options)
        # The startup probe looks for it: before, the model answers, but the first requests would wait.
        write_text(RunFolder(platform).path / WARM, "")
        log.info("%s version %d answers after %.1f s", up.model, up.version, up.seconds)
        try:
            while not stop.wait(_EVERY_SECONDS):
                if not stack.is_up(platform):
                    raise EngineError("the supervision of the predictor has died")
        finally:
            stack.down(platform)


class Follower:
    """Writes what the stack's programs write to their logs to one stream, where `kubectl logs` finds it."""

    def __init__(self, folder: Path, stream: TextIO) -> None:
        self._folder = folder
        self._stream = stream
        self._positions: dict[Path, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="logs", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._copy()

    def _follow(self) -> None:
        while not self._done.wait(_EVERY_SECONDS):
            self._copy()

    def _copy(self) -> None:
        for path in sorted(self._folder.glob("*.log")):
            try:
                with path.open(encoding="utf-8", errors="replace") as file:
                    size, known = path.stat().st_size, self._positions.get(path, 0)
                    file.seek(known if known <= size else 0)  # it was rotated
                    for line in file:
                        self._stream.write(f"{path.stem}: {line.rstrip()}\n")
                    self._positions[path] = file.tell()
            except OSError:
                continue  # it is being rotated; the next pass finds it
        self._stream.flush()

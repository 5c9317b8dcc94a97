"""Becomes a server: checks the model archive's digest, makes a clean temporary folder, then replaces itself.

Everything that supervision starts goes through here at *every* start, so that an archive that was damaged or swapped
while a server ran is refused by its next start too. The process id stays the same: a signal to the supervised process
reaches the server itself. Only the front door keeps a parent, which closes it in order (see `drain`). Only the standard
library is imported, for a short start.

    python -P -m serinus.serve.entry LAUNCH.json
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serinus.core.errors import IntegrityError, InvalidInput, NotFound, SerinusError
from serinus.engines.files import sha256, write_text
from serinus.engines.scheduling import take_turns
from serinus.serve import drain
from serinus.serve.drain import Drain


@dataclass(frozen=True)
class Launch:
    """What to run. `archive` must have `digest`; `temporary` is emptied at each start and becomes TMPDIR; with `drain`
    the command is Envoy, to be closed in order."""

    command: tuple[str, ...]
    environment: dict[str, str]
    temporary: str | None = None
    archive: str | None = None
    digest: str | None = None
    drain: Drain | None = None

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, path: Path) -> Launch:
        """
        Raises:
            NotFound: there is no such file.
            InvalidInput: it is not a launch file.
        """
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            own = {"command": tuple(fields["command"]), "drain": fields.get("drain") and Drain(**fields["drain"])}
            return cls(**{**fields, **own})
        except FileNotFoundError as error:
            raise NotFound(f"there is no launch file {path}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(f"{path} is not a launch file: {error}") from error


def verify(launch: Launch) -> None:
    """
    Raises:
        NotFound: the archive is gone.
        IntegrityError: its bytes are not those it was registered under.
    """
    if launch.archive is None:
        return
    try:
        found = sha256(Path(launch.archive))
    except FileNotFoundError as error:
        raise NotFound(f"there is no model archive at {launch.archive}", hint="run `serinus up` again") from error
    if found != launch.digest:
        raise IntegrityError(
            f"the model archive {launch.archive} has {found}, registered was {launch.digest}",
            hint="it was damaged or swapped; `serinus down` and `serinus up` fetch it again from the registry",
        )


def main(arguments: list[str]) -> None:
    """Verify, then become the command, or its parent. Does not return."""
    launch = Launch.read(Path(arguments[0]))
    verify(launch)
    environment = dict(os.environ) | launch.environment
    if launch.temporary is not None:
        # The extracted archive and the workers' sockets of a predecessor that was killed are still there.
        shutil.rmtree(launch.temporary, ignore_errors=True)
        Path(launch.temporary).mkdir(mode=0o700, parents=True)
        environment["TMPDIR"] = launch.temporary
    take_turns()
    if launch.drain is not None:
        sys.exit(drain.run(launch.command, environment, launch.drain))
    os.execvpe(launch.command[0], launch.command, environment)  # noqa: S606


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SerinusError as error:
        sys.stderr.write(f"serinus: {error}\n")
        sys.exit(error.exit_code)

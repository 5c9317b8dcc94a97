"""`serinus fetch` and `serinus pod`: what the containers of a predictor's pod run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from serinus.core.platform import Platform


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command(epilog="Example: serinus fetch flights/3 /mnt/models --digest sha256:0a1b...")(fetch)
    app.command(epilog="Example: serinus pod --config /etc/serinus/serving.json --models /mnt/models")(pod)


def fetch(
    source: Annotated[
        str, typer.Argument(help="NAME/VERSION, or serinus://NAME/VERSION?digest=DIGEST.", metavar="SOURCE")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder for the archive.")],
    digest: Annotated[str | None, typer.Option(help="What the archive's digest must be.")] = None,
    file: Annotated[
        Path, typer.Option("--file", "-f", help="A spec, whose registry it is where SERINUS_PLATFORM names none.")
    ] = Path("serinus.yaml"),
) -> None:
    """Bring a model version's archive from the registry and verify its digest. Exit code 5 if it is another one.

    VERSION is a number, or the alias champion or challenger. KServe calls this for storage of the scheme serinus.
    """
    import logging
    import sys

    from serinus.cli.place import platform_of
    from serinus.control.pod import fetch as bring
    from serinus.control.pod import last_words, read_source
    from serinus.core.errors import IntegrityError
    from serinus.engines.mlflow import Registry
    from serinus.engines.platformfile import platform_from_environment

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with last_words():
        name, version, told = read_source(source)
        wanted = digest or told
        platform = platform_from_environment() or platform_of(file)
        registry = Registry(platform.tracking_uri, platform.artifact_uri)
        found = registry.get(name, version)
        if wanted is not None and found.digest != wanted:
            raise IntegrityError(f"the registry's {name} version {found.version} has {found.digest}, asked is {wanted}")
        path = bring(registry, found, folder)
    sys.stdout.write(f"{path}\n")


def pod(
    config: Annotated[Path, typer.Option(help="What to serve.")] = Path("/etc/serinus/serving.json"),
    models: Annotated[Path, typer.Option(help="Folder that `serinus fetch` filled.")] = Path("/mnt/models"),
) -> None:
    """Serve one model version in a pod until told to stop. SERINUS_PLATFORM says where the engines are."""
    import logging
    import signal
    import sys
    import threading

    from serinus.control.pod import last_words, read_config, run

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with last_words():
        run(read_config(config), _platform(), models, stop)


def _platform() -> Platform:
    from serinus.core.errors import NotFound
    from serinus.engines.platformfile import VARIABLE, platform_from_environment

    platform = platform_from_environment()
    if platform is None:
        raise NotFound(f"{VARIABLE} is not set", hint="it says where the engines are, as YAML")
    return platform

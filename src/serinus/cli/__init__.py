"""The `serinus` command: arguments in, words out. Thin: what it does lives in `control` and `training`."""

from __future__ import annotations

import importlib
import sys

import typer

from serinus.core.errors import SerinusError

# A module a group of verbs; each has `register(app)`. Heavy imports belong inside the commands.
_MODULES = (
    "project", "train", "models", "serving", "sidecar", "outcomes", "loop", "replay", "rollout", "ledger", "simulate",
    "pod", "operator", "scorer", "refresh", "submit",
)  # fmt: skip


def app() -> typer.Typer:
    """The command line's parser, with every verb."""
    root = typer.Typer(
        name="serinus",
        help="Train models continuously and let each new one earn its traffic.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    for name in _MODULES:
        importlib.import_module(f"serinus.cli.{name}").register(root)
    return root


def main() -> None:
    """Run the command; our errors become one clear message on standard error and their exit code."""
    try:
        app()()
    except SerinusError as error:
        print(f"serinus: {error.message}", file=sys.stderr)  # noqa: T201
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)

"""Where the prediction log ends up: any object store that fsspec knows, or a folder."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serinus.core.errors import EngineError, InvalidInput, SerinusError
from serinus.engines.files import replacing

if TYPE_CHECKING:
    import pyarrow.fs


_SECRETS = ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "ACCOUNT_KEY")
_SHORTEST_SECRET = 6


class PredictionStore:
    """Files below one path or URL.

    Every file system has errors of its own, so each call here takes whatever comes for the engine's failure.
    """

    def __init__(self, url: str, options: Mapping[str, object] | None = None, *, replayed: bool = False) -> None:
        """
        Args:
            url: a path, or a URL that fsspec knows.
            options: what fsspec is told about it beside; what is not told there, its library finds by itself.
            replayed: whether readers take the data's time for the machine's, as a log that a replay wrote within
                minutes tells of weeks: a row counts as served when it was asked for, an outcome as received when it
                became known, and files may be of any day.

        Raises:
            InvalidInput: nothing that is installed knows the URL's scheme.
        """
        import fsspec  # type: ignore[import-untyped]

        self.url = _shown(url)
        self._secrets = dict(_secrets(options or {}))
        self.replayed = replayed
        try:
            self._fs, root = fsspec.url_to_fs(url, **(options or {}))
        except (ImportError, ValueError) as error:
            raise InvalidInput(
                f"the destination {self.url} cannot be used: {error}", hint="install the fsspec package of its store"
            ) from error
        except Exception as error:
            raise self._failed("open", "", error) from error
        self._root = str(root).rstrip("/")
        self._local = "file" in ([self._fs.protocol] if isinstance(self._fs.protocol, str) else self._fs.protocol)

    def put(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all, in place of one of that name.

        Raises:
            EngineError: the store refuses or cannot be reached.
        """
        path = self._path(name)
        try:
            if self._local:
                with replacing(Path(path)) as part:
                    part.write_bytes(content)
            else:
                self._pipe(path, content)
        except Exception as error:
            raise self._failed("write", name, error) from error

    def _pipe(self, path: str, content: bytes) -> None:
        from fsspec.asyn import AsyncFileSystem  # type: ignore[import-untyped]

        try:
            self._fs.pipe_file(path, content)
        except FileNotFoundError:
            if isinstance(self._fs, AsyncFileSystem):
                raise  # an object store has no folders: asked for one, it would make a bucket
            self._fs.makedirs(posixpath.dirname(path), exist_ok=True)
            self._fs.pipe_file(path, content)

    def folders(self, name: str) -> list[str]:
        """Names of the folders in a folder, sorted; none where it does not exist.

        Raises:
            EngineError: the store cannot be reached.
        """
        try:
            self._fs.invalidate_cache()
            found = self._fs.ls(self._path(name), detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._failed("list", name, error) from error
        return sorted(posixpath.basename(each["name"].rstrip("/")) for each in found if each["type"] == "directory")

    def files(self, name: str) -> list[str]:
        """Paths of all Parquet files below a folder, sorted, for `filesystem`.

        Raises:
            EngineError: the store cannot be reached.
        """
        try:
            found = self._fs.find(self._path(name))
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._failed("list", name, error) from error
        return sorted(path for path in found if path.endswith(".parquet"))

    @property
    def root(self) -> str:
        """The store's path as `files` begin with it."""
        return self._root

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        """The store as Arrow reads it."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return PyFileSystem(FSSpecHandler(self._fs))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _failed(self, verb: str, name: str, error: Exception) -> SerinusError:
        what: Any = _without({**dict(_secrets(os.environ)), **self._secrets}, str(error)) or type(error).__name__
        return EngineError(f"cannot {verb} {self.url}{'/' + name if name else ''}: {what}")


def _shown(url: str) -> str:
    """A URL for messages: without user, password and query, which may be credentials."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _secrets(settings: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Names and values of what is a credential among settings, which may hold others."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif any(word in name.upper() for word in _SECRETS) and len(str(value)) >= _SHORTEST_SECRET:
            yield name, str(value)


def _without(secrets: Mapping[str, str], text: str) -> str:
    """A library's message without credentials."""
    for name, value in secrets.items():
        text = text.replace(value, f"<{name}>")
    return text

"""KFP's local cache, made to notice a damaged result.

KFP itself only looks whether a cached path exists, so that a file cut short, or a folder with a file missing, would be
handed to the next step. Here each result's content is digested when it is stored and compared when it is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.local import cache

from serinus.engines.files import sha256, write_text
from serinus.engines.kfp_prune import DIGESTS

_log = logging.getLogger()  # KFP's own messages go to the root logger too, where the run's log takes them


class VerifiedCache(cache.LocalCache):
    """Cached outputs of steps, by key; an entry whose artifacts changed since is a miss."""

    def get(self, key: str) -> dict[str, Any] | None:
        outputs: dict[str, Any] | None = super().get(key)
        if outputs is None:
            return None
        try:
            expected = json.loads(self._digests(key).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        found = _artifact_digests(outputs)
        changed = sorted(name for name in found if found[name] != expected.get(name))
        if changed:
            _log.warning("the stored %s changed since it was made: making it again", ", ".join(changed))
            return None
        Path(self._entry_path(key)).touch()  # kfp_prune keeps what was used lately
        return outputs

    def put(self, key: str, outputs: dict[str, Any]) -> None:
        for artifact in _artifacts(outputs).values():
            if not Path(artifact.path).exists():  # only metadata, as Metrics are: without a file KFP would never use it
                Path(artifact.path).touch()
        write_text(self._digests(key), json.dumps(_artifact_digests(outputs), indent=2))
        super().put(key, outputs)

    def _digests(self, key: str) -> Path:
        return Path(self.cache_root) / f"{key}{DIGESTS}"

    @classmethod
    def install(cls, root: Path) -> None:
        """Make this the cache of local runs; call it after `kfp.local.init`, which resets KFP's own."""
        cache._cache_singleton = cls(str(root))
        cache._cache_singleton_root = str(root)


def _artifacts(outputs: dict[str, Any]) -> dict[str, dsl.Artifact]:
    return {name: value for name, value in outputs.items() if isinstance(value, dsl.Artifact)}


def _artifact_digests(outputs: dict[str, Any]) -> dict[str, str]:
    return {name: tree_digest(Path(artifact.path)) for name, artifact in _artifacts(outputs).items()}


def tree_digest(path: Path) -> str:
    """SHA-256 of a file, or over the names and contents of all files below a folder."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {sha256(file)}\n".encode())
    return "sha256:" + digest.hexdigest()

"""The requests' bodies, each kind in a file that the load generator reads: one a line."""

from __future__ import annotations

from pathlib import Path

from benchmarks.serving.ground import Prepared
from benchmarks.serving.peers import limit
from benchmarks.serving.peers.base import v1


class Bodies:
    """Written once: `zipf` and `uniform` with keys, `limit-zipf` and `limit-uniform` with the features of the same."""

    def __init__(self, prepared: Prepared) -> None:
        self.folder = Path(prepared.ground.folder)
        self.files: dict[str, Path] = {}
        for keys, rows in prepared.rows.items():
            self._write(keys, [v1(row) for row in rows])
            self._write(f"limit-{keys}", limit.bodies(prepared, rows))

    def _write(self, name: str, bodies: list[bytes]) -> None:
        self.files[name] = self.folder / f"{name}.jsonl"
        self.files[name].write_bytes(b"\n".join(bodies) + b"\n")

    def first(self, name: str) -> bytes:
        return self.files[name].read_bytes().split(b"\n", 1)[0]

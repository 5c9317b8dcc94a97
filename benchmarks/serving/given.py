"""What every peer is given. A peer imports this and not the means that made it: those take seconds to load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serinus.core.signature import Signature


@dataclass(frozen=True)
class Ground:
    """What peers are given, readable from the JSON file that `write` makes: paths, ports, names.

    `repo` holds a Feast `feature_store.yaml`; `model` the exported program, its signature and profile.
    """

    folder: str
    repo: str
    model: str
    service: str
    feast_port: int
    predictor_port: int

    def write(self) -> Path:
        path = Path(self.folder) / "ground.json"
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: str) -> Ground:
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def positional(signature: Signature, columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Encoded rows, as the handler takes them; null where a number is missing."""
    numbers, categories = signature.encode(columns)
    return [
        {"numbers": [None if value != value else value for value in row.tolist()], "categories": codes.tolist()}
        for row, codes in zip(numbers, categories, strict=True)
    ]

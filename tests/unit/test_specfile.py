"""Reading a spec from a file: which file, and where broken YAML is broken."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from serinus.core.errors import InvalidSpec, NotFound
from serinus.engines.specfile import read_service
from tests.support_spec import DEPLOYMENT, TRAINING


def write(path: Path, *documents: Any) -> Path:
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return path


def test_a_file_or_its_folder_can_be_read(tmp_path: Path) -> None:
    file = write(tmp_path / "serinus.yaml", TRAINING, DEPLOYMENT)
    assert read_service(file) == read_service(tmp_path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no .*serinus\.yaml"):
        read_service(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"kind: [", r"line 1, column 8"),
        (b"kind: A\nspec: {x: 1}\nkind: B\n", r"line 3, column 1: found the key 'kind' again"),
        (b"kind: \xff\xfe", r"byte 6: found a byte that is not UTF-8"),
        (b"kind: \x07", r"character 6: found special characters"),
        (b"kind: !!python/object/apply:os.getcwd []", r"line 1, column 7: found could not determine a constructor"),
    ],
)
def test_broken_yaml_is_told_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "serinus.yaml"
    file.write_bytes(content)
    with pytest.raises(InvalidSpec, match=message):
        read_service(file)


def test_merged_mappings_are_no_double_keys(tmp_path: Path) -> None:
    text = yaml.safe_dump_all([TRAINING, DEPLOYMENT]).replace(
        "windows:\n", "windows:\n    <<: {validation: 7d, holdout: 1d}\n"
    )
    (tmp_path / "serinus.yaml").write_text(text, encoding="utf-8")
    windows = read_service(tmp_path).training.spec.windows
    assert (windows.validation, windows.holdout) == (timedelta(days=7), timedelta(days=31))

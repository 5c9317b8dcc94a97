"""Packages a trained model: everything a predictor needs, in one archive with one digest."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from serinus.core.errors import InvalidData, InvalidInput, NotFound
from serinus.core.profile import Profile
from serinus.core.signature import Signature
from serinus.engines.archive import HANDLER, MODEL, PROFILE, SIGNATURE, write_archive

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """The files that make a package: exported model, signature, profile with predictions, TorchServe's handler."""

    model: Path
    signature: Path
    profile: Path
    handler: Path


class PackageReport(BaseModel):
    """A packaged model: the archive, its SHA-256 and its size in bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    digest: str
    size: int


def package(name: str, parts: Parts, out: Path) -> PackageReport:
    """Write `NAME.mar` into the folder `out`. The same name and contents give the same bytes.

    Raises:
        NotFound: one of the files is missing.
        InvalidData: signature and profile are damaged or do not describe the same model.
        InvalidInput: the name or the handler cannot be used.
    """
    _require_agreement(name, parts.signature, parts.profile)
    _require_python(parts.handler)
    path = out / f"{name}.mar"
    members = {MODEL: parts.model, SIGNATURE: parts.signature, PROFILE: parts.profile, HANDLER: parts.handler}
    digest = write_archive(path, name, members)
    report = PackageReport(name=name, path=path, digest=digest, size=path.stat().st_size)
    logger.info("packaged %s: %d bytes, %s", path, report.size, digest)
    return report


def _require_agreement(name: str, signature_file: Path, profile_file: Path) -> None:
    try:
        signature = Signature.model_validate_json(_read(signature_file))
        profile = Profile.model_validate_json(_read(profile_file))
    except ValidationError as error:
        raise InvalidData(
            f"{signature_file} or {profile_file} is damaged: {error}", hint="run the steps again"
        ) from error
    if signature.model != name:
        raise InvalidData(f"{signature_file} is of model {signature.model}, expected {name}")
    expected = [column.name for column in signature.columns]
    found = [column.name for column in profile.columns]
    if found != expected:
        raise InvalidData(f"{profile_file} has columns {found}, the signature {expected}")
    if profile.prediction is None:
        raise InvalidData(f"{profile_file} has no histogram of predictions", hint="evaluate the model before packaging")


def _require_python(handler: Path) -> None:
    try:
        compile(_read(handler), str(handler), "exec")
    except (SyntaxError, ValueError) as error:
        raise InvalidInput(f"{handler} is not a Python file that TorchServe could load: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path} to package", hint="run the steps before it again") from error

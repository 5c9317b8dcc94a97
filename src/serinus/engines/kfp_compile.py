"""Compiles a pipeline for Kubeflow Pipelines on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from serinus.core.errors import InvalidInput
from serinus.engines.files import replacing

if TYPE_CHECKING:
    from kfp.dsl.base_component import BaseComponent


def compile_pipeline(pipeline: BaseComponent, path: Path, arguments: Mapping[str, Any] | None = None) -> None:
    """Write a pipeline as IR YAML, with `arguments` as the defaults of its parameters. Same input, same bytes.

    Raises:
        InvalidInput: the pipeline has no parameter of such a name or type.
    """
    from kfp import compiler

    if path.suffix not in (".yaml", ".yml"):
        raise InvalidInput(f"{path} cannot be the compiled pipeline's name", hint="end it with .yaml")
    with replacing(path) as part:
        scratch = part.with_suffix(".yaml")  # the compiler goes by the name
        try:
            compiler.Compiler().compile(pipeline, str(scratch), pipeline_parameters=dict(arguments or {}))
            part.write_text(_portable(scratch.read_text(encoding="utf-8")), encoding="utf-8")
        except ValueError as error:
            raise InvalidInput(f"the pipeline cannot be compiled: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)


def _portable(text: str) -> str:
    """The same for older servers, which refuse fields that they do not know: a mounted Secret by its name alone.

    Newer ones still read that (`secretName`, in kfp-kubernetes' kubernetes_executor_config.proto).
    """
    documents = list(yaml.safe_load_all(text))
    for each in documents[1:]:
        for executor in each["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            for mounted in executor.get("secretAsVolume", ()):
                mounted.pop("optional", None)
                mounted.pop("secretNameParameter", None)
    return yaml.safe_dump_all(documents)

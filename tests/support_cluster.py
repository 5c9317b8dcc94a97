"""Asking a real API server about a resource: what it finds wrong, and where."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from kubernetes import client

PLURALS = {"ContinuousTraining": "continuoustrainings", "ModelDeployment": "modeldeployments"}
NOT_FOUND = 404
_UNKNOWN = re.compile(r'unknown field "([^"]+)"')


def jsonable(value: Any) -> Any:
    """A value as it is sent: kubectl, too, sends YAML's times as text."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return {key: jsonable(each) for key, each in value.items()}
    return [jsonable(each) for each in value] if isinstance(value, list) else value


def refused(api: client.ApiClient, namespace: str, document: dict[str, Any]) -> dict[str, str]:
    """Path -> message of what the API server finds wrong with a resource; empty where it takes it. Nothing is stored.

    Unknown fields are asked about strictly, as kubectl does. A rule on an object that cannot be judged for a mistake
    within it is no mistake of its own: what lies above another one's path is left out, as are the server's remarks
    without a path.
    """
    group, _, version = document["apiVersion"].partition("/")
    try:
        client.CustomObjectsApi(api).create_namespaced_custom_object(
            group, version, namespace, PLURALS[document["kind"]], jsonable(document),
            dry_run="All", field_validation="Strict",
        )  # fmt: skip
    except client.ApiException as error:
        if error.status == NOT_FOUND:
            return {"": "no such group or version"}
        return _innermost(_told(json.loads(error.body)))
    return {}


def _told(status: dict[str, Any]) -> dict[str, str]:
    causes = status.get("details", {}).get("causes", [])
    told = {_plain(each["field"]): each["message"] for each in causes if each.get("field", "<nil>") != "<nil>"}
    told |= {_plain(path): "unknown field" for path in _UNKNOWN.findall(status["message"])}
    return told or {"": status["message"]}


def _plain(path: str) -> str:
    """A path as our own messages write it: names after a dot, only numbers in brackets."""
    return re.sub(r"\[([^]0-9][^]]*)\]", r".\1", path)


def _innermost(told: dict[str, str]) -> dict[str, str]:
    return {path: words for path, words in told.items() if not any(_above(path, other) for other in told)}


def _above(path: str, other: str) -> bool:
    return other.startswith((f"{path}.", f"{path}["))

"""Kubeflow Pipelines without several users, and Argo Workflows, as pods: what they are told of the cluster, a pod alone
can be told. Runs execute in their namespace, by an account with the least rights with which one succeeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from string import Template

from tests.cluster.testbed import images, storage
from tests.cluster.testbed.kubeflow import OBJECTS, PROGRAMS
from tests.cluster.testbed.modules import documents
from tests.cluster.testbed.site import ADDRESS, Document, Site

HERE = Path(__file__).parent
NAMESPACE = "kubeflow"
URL = f"http://{ADDRESS}:8888"
# What else has to be there, and what has it.
PACKAGES = {"gcc": "gcc", "mariadbd": "mariadb-server-core"}
_DEFINITION = "CustomResourceDefinition"
_DEPLOYMENTS = (
    "ml-pipeline",
    "ml-pipeline-persistenceagent",
    "ml-pipeline-scheduledworkflow",
    "workflow-controller",
)


def definitions(built: Path) -> list[Document]:
    """The kinds of Argo, and that of recurring runs."""
    return [each for each in _objects(built) if each["kind"] == _DEFINITION]


def start(site: Site, built: Path) -> None:
    """Make the pods, once the kinds are known."""
    site.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    storage.define(site, NAMESPACE)
    text = Template((HERE / "manifests" / "pipelines.yaml").read_text(encoding="utf-8"))
    values = {
        "address": ADDRESS,
        "database": storage.DATABASE,
        "image": images.reference(PROGRAMS),
        "key": storage.KEY,
        "s3": storage.S3,
        "secret": storage.SECRET,
    }
    theirs = [each for each in _objects(built) if each["kind"] != _DEFINITION]
    site.apply(_in_namespace(each) for each in (*theirs, *documents(text.substitute(values))))


def ready(site: Site) -> Iterator[str]:
    """Wait until runs are taken, and executed."""
    arguments = ("wait", f"--namespace={NAMESPACE}", "--for=condition=Available", "--timeout=1s")
    names = [f"deployment/{name}" for name in _DEPLOYMENTS]
    yield from site.wait(f"Kubeflow Pipelines on {URL}", lambda: site.answers(*arguments, *names))


def _objects(built: Path) -> list[Document]:
    return list(json.loads((built / OBJECTS).read_text(encoding="utf-8")))


def _in_namespace(document: Document) -> Document:
    """Objects as they would be after kustomize: in the namespace, and bound to accounts of it."""
    document["metadata"]["namespace"] = NAMESPACE
    for subject in document.get("subjects", ()):
        subject["namespace"] = NAMESPACE
    return document

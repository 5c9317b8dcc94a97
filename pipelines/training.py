"""From raw data to a registered version. A refused candidate goes through to the end, so that it is recorded too."""

from typing import NamedTuple

from kfp import dsl, kubernetes
from kfp.dsl.base_component import BaseComponent

from components import IMAGE
from components.dataset import dataset
from components.evaluate import evaluate
from components.gate import gate
from components.ingest import ingest
from components.package import package
from components.register import register
from components.train import train
from components.validate import validate

STEPS = frozenset({"ingest", "validate", "dataset", "train", "evaluate", "gate", "package", "register"})
"""The names of the steps."""
PLATFORM_FOLDER = "/etc/serinus/platform"
"""Where steps on a cluster find the Secret that says where the engines are."""


class Outputs(NamedTuple):
    """What a run leaves: the answer, the version (0: none), and what it was decided on."""

    accepted: bool
    version: int
    verdict: dsl.Artifact
    evaluation: dsl.Artifact
    report: dsl.HTML


def training_pipeline(image: str = IMAGE, secret: str | None = None) -> BaseComponent:
    """The training pipeline. Same arguments, same pipeline.

    Args:
        image: what steps run in, on a cluster.
        secret: a Kubernetes Secret that steps find in `PLATFORM_FOLDER`.
    """

    @dsl.pipeline(name="training", description="Ingest, validate, build the dataset, train, evaluate, gate, register.")
    def training(spec: str, platform: str, resources: str = "", as_of: str = "", run: str = "") -> Outputs:
        arrived = ingest(spec=spec, platform=platform, as_of=as_of, resources=resources)
        data, plan = arrived.outputs["data_digest"], arrived.outputs["plan"]
        found = {"plan": arrived.outputs["data_plan"], "as_of": arrived.outputs["as_of"], "data_digest": data}
        checked = validate(platform=platform, **found)
        built = dataset(spec=spec, platform=platform, **found).after(checked)
        rows = built.outputs["rows"]
        trained = train(spec=spec, plan=arrived.outputs["model_plan"], rows=rows)
        judged = evaluate(
            plan=plan,
            platform=platform,
            opponent=arrived.outputs["opponent"],
            rows=rows,
            model=trained.outputs["model"],
        )
        made = {"rows": rows, "model": trained.outputs["model"], "evaluation": judged.outputs["evaluation"]}
        answer = gate(plan=plan, evaluation=judged.outputs["evaluation"])
        packed = package(plan=plan, **made)
        registered = register(
            plan=plan,
            platform=platform,
            run=run,
            job=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            data_digest=data,
            archive_digest=packed.outputs["Output"],
            verdict=answer.outputs["verdict"],
            archive=packed.outputs["archive"],
            **made,
        )
        for task in (arrived, checked, built, trained, judged, answer, packed, registered):
            task.set_container_image(image)
        for task in (arrived, checked, built, judged, registered) if secret else ():
            kubernetes.use_secret_as_volume(task, secret, PLATFORM_FOLDER)
        for task in (arrived, registered):  # they act on the world
            task.set_caching_options(False)
        for task in (built, trained, judged):
            task.set_cpu_request("1").set_memory_request("4G").set_memory_limit("8G")
        return Outputs(
            accepted=answer.outputs["Output"],
            version=registered.output,
            verdict=answer.outputs["verdict"],
            evaluation=judged.outputs["evaluation"],
            report=judged.outputs["report"],
        )

    return training

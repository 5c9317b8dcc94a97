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

_TIMEOUT = 6 * 3600  # seconds: a step that hangs gives its node back


class Outputs(NamedTuple):
    """What a run leaves: the answer, the version (0: none), and what it was decided on."""

    accepted: bool
    version: int
    verdict: dsl.Artifact
    evaluation: dsl.Artifact
    report: dsl.HTML


def training_pipeline(image: str = IMAGE) -> BaseComponent:
    """The training pipeline, with steps that run in `image` on a cluster. Same image, same pipeline."""

    @dsl.pipeline(name="training", description="Ingest, validate, build the dataset, train, evaluate, gate, register.")
    def training(
        spec: str, platform: str, data_code: str, model_code: str, code_digest: str, as_of: str = "", run: str = ""
    ) -> Outputs:
        arrived = ingest(spec=spec, platform=platform, as_of=as_of, code_digest=code_digest)
        moment, data = arrived.outputs["as_of"], arrived.outputs["data_digest"]
        found = {"as_of": moment, "data_digest": data, "data_code": data_code}
        checked = validate(spec=spec, platform=platform, **found)
        built = dataset(spec=spec, platform=platform, **found).after(checked)
        rows = built.outputs["rows"]
        trained = train(spec=spec, model_code=model_code, rows=rows)
        judged = evaluate(
            spec=spec,
            platform=platform,
            opponent=arrived.outputs["opponent"],
            code_digest=code_digest,
            rows=rows,
            model=trained.outputs["model"],
        )
        made = {"rows": rows, "model": trained.outputs["model"], "evaluation": judged.outputs["evaluation"]}
        answer = gate(spec=spec, code_digest=code_digest, evaluation=judged.outputs["evaluation"])
        packed = package(spec=spec, code_digest=code_digest, **made)
        registered = register(
            spec=spec,
            platform=platform,
            run=run,
            job=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            data_digest=data,
            code_digest=code_digest,
            archive_digest=packed.outputs["Output"],
            verdict=answer.outputs["verdict"],
            archive=packed.outputs["archive"],
            **made,
        )
        for task in (arrived, checked, built, trained, judged, answer, packed, registered):
            task.set_container_image(image)
            kubernetes.set_image_pull_policy(task, "IfNotPresent")
            kubernetes.set_timeout(task, _TIMEOUT)
            kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "serinus")
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

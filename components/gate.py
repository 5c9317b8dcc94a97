"""Judges the candidate by its scorecard."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def gate(plan: str, evaluation: dsl.Input[dsl.Artifact], verdict: dsl.Output[dsl.Artifact]) -> bool:
    """Write verdict.json, with the reasons; a refused candidate does not stop the run, so that it is recorded too."""
    from pathlib import Path

    from serinus.core.evaluation import Scorecard
    from serinus.core.gate import judge
    from serinus.engines.files import write_text
    from serinus.engines.kfp_step import step
    from serinus.training.plan import Plan

    with step() as here:
        card = Scorecard.model_validate_json((Path(evaluation.path) / "scorecard.json").read_bytes())
        answer = judge(card, Plan.model_validate_json(plan).service().training.spec.gate)
        write_text(Path(verdict.path) / "verdict.json", answer.model_dump_json(indent=2))
        here.result("accepted" if answer.passed else "refused")
        return answer.passed

"""A pipeline of three small steps, for tests of what runs pipelines."""

from typing import Any

from kfp import dsl

IMAGE = "python:3.11"


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def write(text: str, mode: str, words: dsl.Output[dsl.Artifact], sizes: dsl.Output[dsl.Metrics]) -> None:
    import logging
    import os
    import signal
    from pathlib import Path

    from serinus.core.errors import InvalidData
    from serinus.engines.kfp_step import step

    with step() as here:
        logging.getLogger("serinus.test").info("a log line")
        logging.getLogger("engine").info("chatter of an engine")
        print("a line of the step")  # noqa: T201
        if mode == "refuse":
            raise InvalidData("the text is refused", hint="send another")
        if mode == "crash":
            raise ZeroDivisionError("nothing to divide by")
        if mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "hang":
            Path(text).write_text(str(os.getpid()))
            signal.pause()
        here.progress("half")
        Path(words.path).mkdir()
        (Path(words.path) / "words.txt").write_text(text)
        sizes.log_metric("letters", len(text))
        here.result(f"{len(text)} letters")


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def count(words: dsl.Input[dsl.Artifact]) -> int:
    from pathlib import Path

    return len((Path(words.path) / "words.txt").read_text())


@dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
def act(length: int, last: str) -> int:
    if last == "crash":
        raise RuntimeError("the last step crashed")
    return length


def small() -> Any:
    """Write a text, count its letters, act on the number (never cached)."""
    from typing import NamedTuple

    class Outputs(NamedTuple):
        length: int
        words: dsl.Artifact

    @dsl.pipeline(name="small")
    def pipeline(text: str, mode: str, last: str = "well") -> Outputs:
        written = write(text=text, mode=mode)
        counted = count(words=written.outputs["words"])
        acted = act(length=counted.output, last=last)
        acted.set_caching_options(False)
        return Outputs(length=acted.output, words=written.outputs["words"])

    return pipeline

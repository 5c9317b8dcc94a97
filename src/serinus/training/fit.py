"""Fit a project's module: AdamW on one cycle of the learning rate, averaged weights, early stopping, fixed seed.

What is judged on validation and exported is a moving average of the weights: steadier from one epoch to the next than
the weights themselves, so that early stopping does not chase noise, and better than the last of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from serinus.core.errors import InvalidData
from serinus.core.project import Project
from serinus.core.spec.training import Training
from serinus.engines.exported import NamedColumns, export_module, one_thread, save_exported
from serinus.engines.files import sha256, write_text
from serinus.training.plots import training_curve
from serinus.training.rows import DatasetFolder, Rows

MODEL_FILE = "model.pt2"
FIT_FILE = "fit.json"
CURVE_FILE = "training-curve.png"

_AVERAGED_STEPS = 50
_GRADIENT_NORM = 1.0
_SCORED_AT_ONCE = 8192

log = logging.getLogger(__name__)


class Epoch(BaseModel):
    """Mean log loss a row after one pass: on training while it was learned, on validation with averaged weights."""

    model_config = ConfigDict(frozen=True)

    number: int
    of: int
    train_loss: float
    validation_loss: float
    seconds: float


class FitReport(BaseModel):
    """How a model was fitted. `digest` is the SHA-256 of model.pt2; equal seeds and data give equal digests."""

    model_config = ConfigDict(frozen=True)

    epochs: tuple[Epoch, ...]
    best_epoch: int
    stopped_early: bool
    validation_loss: float
    seconds: float
    seed: int
    weights: int
    parameters: dict[str, Any]
    train_rows: int
    validation_rows: int
    digest: str


Progress = Callable[[Epoch], None]


def fit(
    project: Project,
    training: Training,
    dataset_folder: Path,
    out_folder: Path,
    progress: Progress | None = None,
) -> FitReport:
    """Train on the dataset's `train` period, stop by log loss on `validation`, export to `out_folder`.

    Writes model.pt2, fit.json and training-curve.png. The same dataset, parameters and seed give the same bytes of
    model.pt2 on the same kind of machine: one thread is used, however many there are.

    Raises:
        InvalidData: the dataset is damaged, or a period has no rows or only one label.
        InvalidInput: the project's module cannot be trained or exported.
    """
    began = time.perf_counter()
    dataset = DatasetFolder.read(dataset_folder)
    with _reproducible(training.seed), one_thread():
        module = NamedColumns(project.model(training.parameters, dataset.signature), dataset.signature)
        learner = _Learner(module, training, _Tensors.of(dataset, "train"), _Tensors.of(dataset, "validation"))
        epochs, best = learner.run(progress)
        module.load_state_dict(learner.best)
        save_exported(export_module(module), out_folder / MODEL_FILE)
    report = FitReport(
        epochs=tuple(epochs),
        best_epoch=best.number,
        stopped_early=len(epochs) < training.epochs,
        validation_loss=best.validation_loss,
        seconds=round(time.perf_counter() - began, 3),
        seed=training.seed,
        weights=sum(weight.numel() for weight in module.parameters()),
        parameters=training.parameters,
        train_rows=len(learner.train.labels),
        validation_rows=len(learner.validation.labels),
        digest=sha256(out_folder / MODEL_FILE),
    )
    write_text(out_folder / FIT_FILE, report.model_dump_json(indent=2) + "\n")
    training_curve(
        [(epoch.train_loss, epoch.validation_loss) for epoch in epochs], best.number, out_folder / CURVE_FILE
    )
    log.info(
        "trained %d weights on %d rows in %.1f s: validation log loss %.5f at epoch %d of %d",
        report.weights, report.train_rows, report.seconds, best.validation_loss, best.number, len(epochs),
    )  # fmt: skip
    return report


@dataclass(frozen=True)
class _Tensors:
    """Encoded rows of one period: `[n, k]`, `[n, c]` and `[n]`."""

    numbers: torch.Tensor
    categories: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, dataset: DatasetFolder, part: str) -> _Tensors:
        rows: Rows = dataset.part(part)
        numbers, categories = rows.encode(dataset.signature)
        labels = torch.from_numpy(rows.labels.astype(np.float32))
        return cls(torch.from_numpy(numbers), torch.from_numpy(categories), labels)

    def take(self, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.numbers[which], self.categories[which], self.labels[which]


class _Learner:
    """One run of training; `best` holds the averaged weights of the best epoch."""

    def __init__(self, module: NamedColumns, training: Training, train: _Tensors, validation: _Tensors) -> None:
        prepare = getattr(module.module, "prepare", None)
        if prepare is not None:
            with torch.no_grad():
                prepare(module.columns(train.numbers, train.categories))
        self.module, self.training, self.train, self.validation = module, training, train, validation
        self.steps = -(-len(train.labels) // training.batch_size)
        decay = 1 - 1 / min(_AVERAGED_STEPS, max(2, self.steps))
        self.averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.optimizer = torch.optim.AdamW(
            module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, training.learning_rate, total_steps=self.steps * training.epochs, pct_start=0.2
        )
        self.order = torch.Generator().manual_seed(training.seed)
        self.best: dict[str, torch.Tensor] = {}

    def run(self, progress: Progress | None) -> tuple[list[Epoch], Epoch]:
        """All epochs until validation stops getting better, and the best of them."""
        epochs: list[Epoch] = []
        best: Epoch | None = None
        for number in range(1, self.training.epochs + 1):
            began = time.perf_counter()
            losses = {"train_loss": self._pass(), "validation_loss": self._validate()}
            seconds = round(time.perf_counter() - began, 3)
            epoch = Epoch(number=number, of=self.training.epochs, seconds=seconds, **losses)
            epochs.append(epoch)
            if progress is not None:
                progress(epoch)
            if not np.isfinite(epoch.train_loss + epoch.validation_loss):
                raise InvalidData(
                    f"the loss became {epoch.train_loss} in epoch {number}",
                    hint="lower training.learningRate, or let the module scale and clip its inputs",
                )
            if best is None or epoch.validation_loss < best.validation_loss:
                best = epoch
                self.best = {name: value.clone() for name, value in self.averaged.module.state_dict().items()}
            elif number - best.number >= self.training.patience:
                break
        assert best is not None  # the spec asks for one epoch at least
        return epochs, best

    def _pass(self) -> float:
        self.module.train()
        total = 0.0
        order = torch.randperm(len(self.train.labels), generator=self.order)
        for which in order.split(self.training.batch_size):
            numbers, categories, labels = self.train.take(which)
            loss = binary_cross_entropy_with_logits(self.module(numbers, categories), labels)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), _GRADIENT_NORM)
            self.optimizer.step()
            self.schedule.step()
            self.averaged.update_parameters(self.module)
            total += loss.item() * len(which)
        return total / len(order)

    def _validate(self) -> float:
        self.averaged.eval()
        rows = self.validation
        with torch.no_grad():
            logits = torch.cat(
                [
                    self.averaged(numbers, categories)
                    for numbers, categories in zip(
                        rows.numbers.split(_SCORED_AT_ONCE), rows.categories.split(_SCORED_AT_ONCE), strict=True
                    )
                ]
            )
        return float(binary_cross_entropy_with_logits(logits.double(), rows.labels.double()))


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seed torch and refuse operations without a deterministic implementation; put both back afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)

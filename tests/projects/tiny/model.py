"""The network: standardised numbers, a flag for each missing one, an embedding a category."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from serinus.core.signature import FIRST_CATEGORY, Signature


class Network(nn.Module):
    """Named columns to one logit a row."""

    def __init__(self, signature: Signature, hidden: int) -> None:
        super().__init__()
        self.numbers = [column.name for column in signature.numbers]
        self.categories = [column.name for column in signature.categories]
        sizes = [FIRST_CATEGORY + len(column.categories) for column in signature.categories]
        self.register_buffer("mean", torch.zeros(len(self.numbers)))
        self.register_buffer("scale", torch.ones(len(self.numbers)))
        self.embeddings = nn.ModuleList(nn.Embedding(size, 2) for size in sizes)
        inputs = 2 * len(self.numbers) + 2 * len(sizes)
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def prepare(self, columns: dict[str, Tensor]) -> None:
        values = self._stack(columns)
        mean = values.nanmean(dim=0)
        self.mean.copy_(mean)
        self.scale.copy_((values - mean).square().nanmean(dim=0).sqrt().clamp(min=1e-6))

    def forward(self, columns: dict[str, Tensor]) -> Tensor:
        values = (self._stack(columns) - self.mean) / self.scale
        missing = torch.isnan(values)
        embedded = [embedding(columns[name]) for name, embedding in zip(self.categories, self.embeddings, strict=True)]
        inputs = torch.cat([torch.where(missing, 0.0, values), missing.float(), *embedded], dim=1)
        return self.layers(inputs).squeeze(1)

    def _stack(self, columns: dict[str, Tensor]) -> Tensor:
        return torch.stack([columns[name] for name in self.numbers], dim=1)

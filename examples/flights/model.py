"""The module that is trained and served: named columns in, one logit a row out.

Numbers are scaled by their quartiles, squeezed so that an outlier stays an outlier without ruling the sum, and flagged
where missing. Each category has its vector; the hidden layers take all of it at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from serinus.core.errors import InvalidInput

if TYPE_CHECKING:
    from serinus.core.signature import Signature

DEFAULTS = {"width": 64, "layers": 1, "embedding": 4, "dropout": 0.3}
CODES_BEFORE_CATEGORIES = 2  # missing and unknown


def build(params: Mapping[str, Any], signature: Signature) -> FlightDelay:
    """The module for these hyper-parameters: `width`, `layers`, `embedding` and `dropout`."""
    unknown = sorted(set(params) - set(DEFAULTS))
    if unknown:
        raise InvalidInput(
            f"training.parameters has {', '.join(unknown)}, which this model does not know",
            hint=f"known are {', '.join(DEFAULTS)}",
        )
    return FlightDelay({**DEFAULTS, **params}, signature)


class FlightDelay(nn.Module):
    """A multi-layer perceptron over scaled numbers, flags of missing numbers, and category vectors."""

    def __init__(self, params: Mapping[str, Any], signature: Signature) -> None:
        super().__init__()
        self.numbers = [column.name for column in signature.numbers]
        self.categories = [column.name for column in signature.categories]
        sizes = [CODES_BEFORE_CATEGORIES + len(column.categories) for column in signature.categories]
        count = len(self.numbers)
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.register_buffer("first", torch.tensor([sum(sizes[:position]) for position in range(len(sizes))]))
        # One table for all categories, so that a batch pays one look-up: each column's rows start at `first`.
        self.vectors = nn.Embedding(sum(sizes), params["embedding"])
        nn.init.normal_(self.vectors.weight, std=0.1)
        widths = [2 * count + len(sizes) * params["embedding"], *[params["width"]] * params["layers"]]
        self.hidden = nn.ModuleList(nn.Linear(into, out) for into, out in pairwise(widths))
        self.dropout = nn.Dropout(params["dropout"])
        self.out = nn.Linear(widths[-1], 1)

    def prepare(self, columns: Mapping[str, Tensor]) -> None:
        """Learn each number's centre and scale, and start from the training rows' quartiles."""
        for position, name in enumerate(self.numbers):
            known = columns[name][~torch.isnan(columns[name])].double()
            if len(known) == 0:
                continue
            ordered = known.sort().values
            low, middle, high = (ordered[int(share * (len(ordered) - 1))] for share in (0.25, 0.5, 0.75))
            spread = (high - low) / 1.35
            self.centre[position] = middle
            self.scale[position] = spread if spread > 0 else known.std(correction=0).clamp(min=1e-3)

    def forward(self, columns: dict[str, Tensor]) -> Tensor:
        """Logits `[n]` of columns of shape `[n]`: float32 numbers with NaN where missing, int64 category codes."""
        numbers = torch.stack([columns[name] for name in self.numbers], 1)
        codes = torch.stack([columns[name] for name in self.categories], 1)
        missing = torch.isnan(numbers)
        scaled = (numbers - self.centre) / self.scale
        squeezed = torch.copysign(torch.log1p(torch.abs(scaled)), scaled).nan_to_num(nan=0.0, posinf=9.0, neginf=-9.0)
        found = torch.cat((squeezed, missing.to(numbers.dtype), self.vectors(codes + self.first).flatten(1)), 1)
        for layer in self.hidden:
            found = self.dropout(torch.relu(layer(found)))
        return self.out(found).squeeze(1)

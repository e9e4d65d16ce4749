"""What campaigns pay for beyond the click: conversions expected of an impression, and what they bring.

    cpa:  p q + (1 - p) w              conversions; p click, q conversion of a click, w of a view without one
    roas: (p q + (1 - p) w) V          revenue, in the accounting currency

The models of q, w and V come from the training of the click model and read the same features; those of another
training are left out, as would be wrong. Without q nothing is expected, so campaigns that pay for it do not bid.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from models import artefacts, registry
from models.pairs import Columns
from models.registry import BadArtefact, Model

log = logging.getLogger("tagbid.bidder")
Floats = npt.NDArray[np.float64]
PAID_RESULTS = frozenset({"cpa", "roas"})
KINDS = ("conversion", "view", "value")


class Side(Struct, frozen=True):
    """A model with the campaign side of its masks, uint64 (ads, trees), in the order of the snapshot's ads."""

    model: Model
    masks: npt.NDArray[np.uint64]


class Results(Struct, frozen=True):
    """conversion, view, value: None where there is no such model."""

    conversion: Side | None = None
    view: Side | None = None
    value: Side | None = None

    def expected(
        self,
        goals: Sequence[str],
        chances: list[float],
        candidates: list[int],
        request: list[float],
        pairs: Columns,
    ) -> list[float]:
        """What each candidate's campaign pays for, expected of this impression; the click chance for other goals."""
        if not PAID_RESULTS.intersection(goals):
            return chances
        p = np.array(chances)
        conversions = p * self._predicted(self.conversion, candidates, request, pairs)
        conversions += (1 - p) * self._predicted(self.view, candidates, request, pairs)
        revenue = conversions * self._predicted(self.value, candidates, request, pairs)
        by_goal = {"cpa": conversions.tolist(), "roas": revenue.tolist()}
        return [by_goal[goal][i] if goal in by_goal else chances[i] for i, goal in enumerate(goals)]

    def most(self, goals: Sequence[str], chances: list[float]) -> list[float]:
        """The most that can be expected of each ad whatever the request, from the most its click chance can be."""
        if not PAID_RESULTS.intersection(goals):
            return chances
        p = np.array(chances)
        conversions = p * self._highest(self.conversion, len(p)) + self._highest(self.view, len(p))
        revenue = conversions * self._highest(self.value, len(p))
        by_goal = {"cpa": conversions.tolist(), "roas": revenue.tolist()}
        return [by_goal[goal][i] if goal in by_goal else chances[i] for i, goal in enumerate(goals)]

    def ordered(self, order: list[int]) -> "Results":
        """The same with its ads in another order."""
        return Results(
            *(None if s is None else Side(s.model, np.ascontiguousarray(s.masks[order])) for s in self.sides)
        )

    @property
    def sides(self) -> tuple[Side | None, Side | None, Side | None]:
        return self.conversion, self.view, self.value

    @staticmethod
    def _predicted(side: Side | None, candidates: list[int], request: list[float], pairs: Columns) -> Floats:
        if side is None:
            return np.zeros(len(candidates))
        forest = side.model.forest
        raw = forest.candidate_scores((forest.request_mask(request),), side.masks, candidates, pairs)
        return side.model.predicted(np.array(raw))

    @staticmethod
    def _highest(side: Side | None, ads: int) -> Floats:
        return np.zeros(ads) if side is None else side.model.predicted(side.model.forest.upper_bounds(side.masks))


def load(root: Path, clicks: Model | None) -> dict[str, Model]:
    """{kind: model} of those that read the same features as the click model. A model that cannot be used is told of and
    left out: its campaigns then bid nothing, the others as before.
    """
    found: dict[str, Model] = {}
    for kind in KINDS if clicks is not None else ():
        try:
            if artefacts.current(root, kind) is None:
                continue
            model = registry.load(root, kind)
        except BadArtefact as error:
            log.error("no %s model: %s", kind, error)  # noqa: TRY400 - for its reader, not a defect
            continue
        if clicks is not None and model.vocabulary.same(clicks.vocabulary):
            found[kind] = model
        else:
            log.error("no %s model: %s comes from another training than the click model", kind, model.version)
    return found


def build(models: dict[str, Model], values: list[list[float]]) -> Results:
    """Models with their campaign side. values: campaign features per ad."""
    return Results(
        **{kind: Side(model, model.forest.campaign_masks(np.array(values))) for kind, model in models.items()}
    )

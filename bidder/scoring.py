"""Click probabilities of the candidates of one imp: one call of the forest, or the prior without a model."""

from msgspec import Struct

from bidder.results import PAID_RESULTS
from bidder.snapshot import Snapshot
from bidder.view import View
from dmp.schema import User
from models import features
from models.context import Context
from models.features import NOW_COLUMNS
from models.pairs import Columns


class Scores(Struct, frozen=True, gc=False):
    """chances: calibrated click probability per candidate. expected: what its campaign pays for, expected of this
    impression (`bidder.results`). request, pairs: the features of the two sides that are computed per request, in
    parts as `features.in_columns` takes them, and for its candidates; empty without a model.
    """

    chances: list[float]
    expected: list[float]
    request: tuple[list[float], ...]
    pairs: Columns

    def with_more(self, more: "Scores") -> "Scores":
        """These and those of further candidates of the same imp."""
        a, b = len(self.chances), len(more.chances)
        return Scores(
            self.chances + more.chances, self.expected + more.expected, self.request,
            [
                (one if isinstance(one, list) else [one] * a) + (other if isinstance(other, list) else [other] * b)
                for one, other in zip(self.pairs, more.pairs, strict=True)
            ],
        )  # fmt: skip


def score(candidates: list[int], seen: View, where: Context, user: User | None, snapshot: Snapshot) -> Scores:
    """candidates: positions in `snapshot.ads`. where: of an imp of the request. user: as the models may see them."""
    model, masks, parts = snapshot.model, snapshot.masks, snapshot.parts
    if model is None or masks is None or parts is None:
        chances = [snapshot.settings.prior_ctr] * len(candidates)
        expected = [0.0 if snapshot.goals[ad] in PAID_RESULTS else snapshot.settings.prior_ctr for ad in candidates]
        return Scores(chances, expected, (), [])
    if not snapshot.settings.use_tags:
        user = None
    now_us = seen.now_us
    now = parts.now(where, user, now_us)
    place, reader, folded = parts.of(where, seen.reader)
    pairs = snapshot.pairs(candidates, where, user, now_us)
    chances = model.chances(model.forest.candidate_scores(folded, masks, candidates, pairs, NOW_COLUMNS, now))
    ratios = snapshot.ratios
    if ratios is not None:
        chances = [min(1.0, chance * ratios[ad]) for ad, chance in zip(candidates, chances, strict=True)]
    expected = chances
    if snapshot.by_results:
        goals = [snapshot.goals[ad] for ad in candidates]
        request = features.in_columns(place, reader, now)
        expected = snapshot.results.expected(goals, chances, candidates, request, pairs)
    return Scores(chances, expected, (place, reader, now), pairs)

"""Skew: the feature vector a bid was logged with, against the same computed again from what the log says of the bid.

Bids are recomputed under the model they were made with, one in so many by their id, up to `MOST`; a bid whose model
is no longer on disk, or was trained under another definition, cannot be checked. Equal means the very same bits, NaN
equal to NaN (decision science 1.8 allows 1e-6; the functions are the same, so nothing is to be allowed).
"""

from pathlib import Path

import msgspec
import numpy as np

from dmp import events, keys
from dmp.events import Bid
from models import features, registry
from models.context import decode_ad, decode_context
from models.features import Vocabulary
from models.registry import BadArtefact

MOST = 10_000


class Parity(msgspec.Struct, frozen=True):
    """checked: bids recomputed; different: of these; unknown: bids whose model is not to be had. worst: features that
    differ and in how many bids, the most frequent first.
    """

    checked: int
    different: int
    unknown: int
    worst: dict[str, int]


def check(bidlog: Path, root: Path, most: int = MOST, one_in: int = 1) -> Parity:
    """Recompute the youngest bids of a log first. one_in: take one bid in so many, by its id."""
    vocabularies: dict[str, Vocabulary | None] = {}
    checked = different = unknown = 0
    wrong = np.zeros(len(features.FEATURES), dtype=np.int64)
    for path in sorted(bidlog.glob("*.mpk"), reverse=True):
        for event in events.read_file(path):
            if not isinstance(event, Bid) or not event.vector or keys.number(event.event_id) % one_in:
                continue
            vocabulary = _vocabulary(root, event.model, vocabularies)
            if vocabulary is None:
                unknown += 1
                continue
            row = features.row(
                vocabulary,
                decode_context(event.context),
                event.user,
                decode_ad(event.ad),
                event.time_us,
            )
            logged = np.frombuffer(event.vector, "<f8")
            off = (
                ~((logged == row) | (np.isnan(logged) & np.isnan(row)))
                if len(logged) == len(row)
                else np.ones(len(row), dtype=bool)
            )
            checked += 1
            different += bool(off.any())
            wrong += off
            if checked == most:
                break
        if checked == most:
            break
    order = [int(i) for i in np.argsort(-wrong, kind="stable") if wrong[i]]
    return Parity(checked, different, unknown, {features.NAMES[i]: int(wrong[i]) for i in order})


def _vocabulary(root: Path, version: str, known: dict[str, Vocabulary | None]) -> Vocabulary | None:
    if version not in known:
        try:
            known[version] = registry.load(root, "response", version).vocabulary
        except BadArtefact:
            known[version] = None
    return known[version]

"""A challenger judged on live bids: what it said of a sample of them, what the live model said, and who clicked."""

from pathlib import Path

import numpy as np

from dmp import events
from dmp.errors import BadEvents
from dmp.events import Bid, Click, Impression
from models import gate
from models.gate import Check


def compare(bidlog: Path, version: str, wait_us: int) -> tuple[Check, int, int]:
    """The gate's comparison with the live model, on ripe impressions of bids that both have scored; rows and clicks.

    Raises BadEvents when the log holds none.
    """
    scored: dict[tuple[str, str], Bid] = {}
    shown: dict[tuple[str, str], int] = {}
    clicked: dict[tuple[str, str], int] = {}
    youngest_us = 0
    for path in sorted(bidlog.glob("*.mpk")):
        for event in events.read_file(path):
            youngest_us = max(youngest_us, event.time_us)
            if isinstance(event, Bid) and event.shadow == version and event.model and event.model != version:
                scored[event.event_id, event.imp_id] = event
            elif isinstance(event, Impression | Click):
                first = shown if isinstance(event, Impression) else clicked
                key = event.bid_id, event.imp_id
                first[key] = min(event.time_us, first.get(key, event.time_us))
    rows = [key for key in scored if key in shown and shown[key] <= youngest_us - wait_us]
    if not rows:
        raise BadEvents(f"{bidlog}: no impression that {version} has scored and that is old enough; let it run longer")
    labels = np.array([float(key in clicked and clicked[key] - shown[key] <= wait_us) for key in rows])
    ours = np.array([scored[key].shadow_pctr for key in rows])
    theirs = np.array([scored[key].pctr for key in rows])
    names = [scored[key].uid or key[0].encode() for key in rows]
    users = np.unique(np.array(names, dtype="S64"), return_inverse=True)[1].astype(np.int64)
    return gate.against_live(labels, ours, theirs, users, newer=False), len(rows), int(labels.sum())

"""Bid log and notices become training rows: one per impression that was shown, with its click or none.

A row is built from what the bid log recorded at bid time (context, user, ad), never from state read later, so that
a training row and the row the bidder scored are the same (`models.features` fills both).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from dmp import events
from dmp.errors import BadEvents
from dmp.events import Bid, Click, Event, Impression
from dmp.schema import Uid, User
from models.context import Ad, Context, decode_ad, decode_context
from models.features import Row

CLICK_WAIT_US = 30 * 60_000_000  # later clicks are no fruit of this impression; younger impressions are not ripe


class Rows(msgspec.Struct, frozen=True):
    """Impressions in order of time. All sequences line up.

    items: (context, user or None, ad, bid time µs), what `features.matrix` takes. clicks: float64 (n,), 0 or 1.
    uids: whose impression it was, None for contextual bids. keys: a stable text per row, decides samples and splits.
    timed: False when the source has no usable time; then splits go by key. counts: what was read and left out.
    """

    items: list[Row]
    clicks: npt.NDArray[np.float64]
    uids: list[Uid | None]
    keys: list[str]
    timed: bool
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.items)


def rows(
    bidlog_dir: Path,
    notices: Iterable[Event] = (),
    ads: Iterable[Ad] = (),
    *,
    click_wait_us: int = CLICK_WAIT_US,
    until_us: int | None = None,
) -> Rows:
    """Rows of all `*.mpk` files of a directory (bids, and notices if they were stored there) and further notices.

    notices: impressions and clicks, in any order, repeats allowed; other events are ignored. ads: how to read bids
    that were logged without their ad, by campaign and creative.
    An impression is a row when its bid is known and it happened at least `click_wait_us` before `until_us`
    (default: the youngest event seen): younger ones may still be clicked. A click counts when it came within
    `click_wait_us` after its impression. `Rows.counts` tells bids, impressions, clicks, orphans (impression without
    bid), unripe, late_clicks, unseen_clicks (no impression).

    Raises BadEvents when a file is damaged, nothing was shown, or a bid's ad is nowhere to be found.
    """
    bids: dict[tuple[str, str], Bid] = {}
    shown: dict[tuple[str, str], int] = {}
    clicked: dict[tuple[str, str], int] = {}
    youngest_us = 0
    paths = sorted(bidlog_dir.glob("*.mpk"))
    if not paths:
        raise BadEvents(f"{bidlog_dir}: no *.mpk bid log files; run the bidder first or name its bidlog directory")
    for source in (*map(events.read_file, paths), notices):
        for event in source:
            youngest_us = max(youngest_us, event.time_us)
            if isinstance(event, Bid):
                bids.setdefault((event.event_id, event.imp_id), event)
            elif isinstance(event, Impression | Click):
                first = shown if isinstance(event, Impression) else clicked
                key = event.bid_id, event.imp_id
                first[key] = min(event.time_us, first.get(key, event.time_us))
    counts = Counter(bids=len(bids), impressions=len(shown), clicks=len(clicked), orphans=0, unripe=0, late_clicks=0)
    counts["unseen_clicks"] = len(clicked.keys() - shown.keys())
    ripe_us = (youngest_us if until_us is None else until_us) - click_wait_us
    read = _Reader(ads)
    found: list[tuple[int, str, Row, float, Uid | None]] = []
    for key, shown_us in shown.items():
        bid = bids.get(key)
        if bid is None:
            counts["orphans"] += 1
        elif shown_us > ripe_us:
            counts["unripe"] += 1
        else:
            clicked_us = clicked.get(key)
            label = clicked_us is not None and clicked_us - shown_us <= click_wait_us
            counts["late_clicks"] += clicked_us is not None and not label
            found.append((bid.time_us, f"{key[0]}/{key[1]}", read.row(bid), float(label), bid.uid))
    if not found:
        raise BadEvents(f"{bidlog_dir}: no impression to learn from, only {dict(counts)}")
    found.sort(key=lambda entry: entry[:2])
    return Rows(
        items=[entry[2] for entry in found],
        clicks=np.array([entry[3] for entry in found]),
        uids=[entry[4] for entry in found],
        keys=[entry[1] for entry in found],
        timed=True,
        counts=dict(counts),
    )


def with_users(rows: Rows, user_of: Callable[[Uid | None, User | None], User | None]) -> Rows:
    """The same impressions with other users in them: tags switched off, or permuted as a placebo.

    user_of: called per row with the uid and the user as logged, returns the user to learn from.

    Tags off: `with_users(rows, lambda uid, user: None)`. Placebo: `with_users(rows, lambda uid, user: other[uid])`.
    """
    return msgspec.structs.replace(
        rows,
        items=[
            (context, user_of(uid, user), ad, time_us)
            for (context, user, ad, time_us), uid in zip(rows.items, rows.uids, strict=True)
        ],
    )


def take(rows: Rows, which: Sequence[int] | npt.NDArray[np.intp]) -> Rows:
    """Some of the rows, by position."""
    positions = [int(i) for i in which]
    return msgspec.structs.replace(
        rows,
        items=[rows.items[i] for i in positions],
        clicks=rows.clicks[positions],
        uids=[rows.uids[i] for i in positions],
        keys=[rows.keys[i] for i in positions],
    )


class _Reader:
    """Bids to feature rows, each distinct ad decoded once."""

    def __init__(self, ads: Iterable[Ad]) -> None:
        self._named: Mapping[tuple[str, str], Ad] = {(ad.campaign, ad.creative): ad for ad in ads}
        self._decoded: dict[bytes, Ad] = {}

    def row(self, bid: Bid) -> Row:
        return self._context(bid), bid.user, self._ad(bid), bid.time_us

    def _context(self, bid: Bid) -> Context:
        try:
            return decode_context(bid.context)
        except msgspec.DecodeError as error:
            raise BadEvents(f"bid {bid.event_id}: its context cannot be read: {error}") from None

    def _ad(self, bid: Bid) -> Ad:
        if bid.ad:
            ad = self._decoded.get(bid.ad)
            if ad is None:
                try:
                    ad = self._decoded[bid.ad] = decode_ad(bid.ad)
                except msgspec.DecodeError as error:
                    raise BadEvents(f"bid {bid.event_id}: its ad cannot be read: {error}") from None
            return ad
        named = self._named.get((bid.campaign, bid.creative))
        if named is None:
            raise BadEvents(
                f"bid {bid.event_id} of {bid.campaign}/{bid.creative} was logged without its ad; "
                f"hand the campaigns' ads over as `ads`"
            )
        return named

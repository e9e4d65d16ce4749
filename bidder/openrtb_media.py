"""What may be shown in an impression: banner, video, audio and native objects of OpenRTB 2.5 and 2.6.

Lists are tuples, so that equal objects are equal keys: what fits a placement is worked out once (`bidder.fitting`).
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bidder.openrtb_types import STRICT, Flag, Int, Money, Str

Ints = Annotated[tuple[Int, ...], Meta(extra=STRICT)]
Texts = Annotated[tuple[Str, ...], Meta(extra=STRICT)]
Number = Annotated[float, Meta(ge=-1e9, le=1e9)]


class Format(Struct, frozen=True, gc=False):
    """A permitted size in pixels; or a ratio at any width from wmin on, which flexible creatives fit."""

    w: Int | None = None
    h: Int | None = None
    wratio: Int | None = None
    hratio: Int | None = None
    wmin: Int | None = None


class Banner(Struct, frozen=True, gc=False):
    """Either `format` or w and h, or both: then w and h is one more permitted size. api: supported, absent = none."""

    w: Int | None = None
    h: Int | None = None
    format: tuple[Format, ...] | None = None
    btype: Ints | None = None
    battr: Ints | None = None
    pos: Int | None = None
    mimes: Texts | None = None
    api: Ints | None = None


class DurFloor(Struct, frozen=True, gc=False):
    """A floor (CPM) for lengths from mindur to maxdur seconds, both inclusive, either open (3.2.35)."""

    mindur: Number | None = None
    maxdur: Number | None = None
    bidfloor: Money | None = None


class Timed(Struct, frozen=True, gc=False):
    """What video and audio share. Lengths in seconds; rqddurs replaces minduration and maxduration.

    poddur: this imp is a dynamic pod of so many seconds and at most maxseq ads. mincpmpersec, durfloors: floors in the
    imp's currency, one of them is sent. An absent `api` supports no framework. maxextended: seconds an ad may be longer
    than maxduration, -1 for any number, 0 or absent for none. podid: imps that share one are slots of one pod.
    poddedupe: what no two ads of a pod may have in common (AdCOM, List: Pod Deduplication).
    """

    mimes: Texts | None = None
    minduration: Annotated[Number, Meta(extra=STRICT)] | None = None
    maxduration: Annotated[Number, Meta(extra=STRICT)] | None = None
    maxextended: Number | None = None
    rqddurs: Annotated[tuple[Number, ...], Meta(extra=STRICT)] | None = None
    protocols: Ints | None = None
    protocol: Int | None = None
    battr: Ints | None = None
    api: Ints | None = None
    delivery: tuple[Int, ...] | None = None
    minbitrate: Int | None = None
    maxbitrate: Int | None = None
    poddur: Annotated[Number, Meta(extra=STRICT)] | None = None
    maxseq: Annotated[Int, Meta(extra=STRICT)] | None = None
    slotinpod: Int | None = None
    podid: Str | None = None
    poddedupe: tuple[Int, ...] | None = None
    mincpmpersec: Money | None = None
    durfloors: Annotated[tuple[DurFloor, ...], Meta(max_length=100, extra=STRICT)] | None = None


class Video(Timed, frozen=True, gc=False):
    """w, h: of the player. linearity: 1 linear, 2 not. skip: 1 = the player brings the skip button.
    boxingallowed: 0 = the picture must have the player's shape. plcmt: where the player stands; placement: the same in
    the numbers of 2.5, see `placement_of`.
    """

    w: Int | None = None
    h: Int | None = None
    linearity: Int | None = None
    skip: Flag | None = None
    boxingallowed: Flag | None = None
    plcmt: Int | None = None
    placement: Int | None = None


OLD_PLACEMENTS = {1: 1, 2: 4, 3: 4, 4: 4, 5: 3}
"""2.5's in-stream, in-banner, in-article, in-feed, floating players in the numbers of AdCOM, List: Plcmt Subtypes."""


def placement_of(offered: Video) -> int:
    """Where a player stands: 1 in-stream, 2 beside content, 3 interstitial, 4 without content ...; 0 unknown."""
    return offered.plcmt or OLD_PLACEMENTS.get(offered.placement or 0, 0)


class Audio(Timed, frozen=True, gc=False):
    """Nothing that Timed has not."""


class Native(Struct, frozen=True, gc=False):
    """request: the native request as JSON text; some send it as an object."""

    request: Any = None
    ver: Str | None = None
    api: Ints | None = None
    battr: Ints | None = None


def native_text(native: Native) -> str:
    """The native request as text, whichever way it came; "" when there is none."""
    raw = native.request
    if isinstance(raw, str):
        return raw
    return msgspec.json.encode(raw).decode() if isinstance(raw, dict) else ""


class Qty(Struct, frozen=True, gc=False):
    """multiplier: impressions one showing counts for, on a screen many see; may be below 1."""

    multiplier: Annotated[float, Meta(ge=0, le=1e6, extra=STRICT)] | None = None

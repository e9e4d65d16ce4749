"""Which creatives fit a video, audio or native object: worked out once for each distinct object, then remembered.

Ads of one shape (length, files, frameworks, attributes) are judged together. A placement sends the same object again
and again, so what is remembered answers nearly every request; a new one costs a few microseconds for each shape.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from bidder import clips, native
from bidder.clips import ClipShape, clip_shape
from bidder.creatives import Creative
from bidder.openrtb_media import Audio, Native, Timed, Video, native_text
from bidder.reasons import Reason
from bidder.remembered import Remembered

REMEMBERED_BYTES = 4 * 1024**2  # of each medium: 1,500 objects and what fits them, of a thousand ads
Rows = Sequence[tuple[Creative, frozenset[int], frozenset[int]]]
Masks = dict[Reason, int]
"""Rule -> the ads of one medium that pass it."""
NativeKey = tuple[str, tuple[int, ...] | None, tuple[int, ...] | None]
"""Text of the native request, `api` and `battr`."""
T = TypeVar("T", Video, Audio, NativeKey)

RULES: tuple[Reason, ...] = (*(reason for reason, _ in clips.RULES), Reason.ASSETS)
"""The rules of media in the order they are asked."""


class Fitting:
    """What fits, for the ads of one snapshot. rows: (creative, attributes with the campaign's, numbers of the video
    placements it wants) by bit.
    """

    def __init__(self, rows: Rows) -> None:
        self.video_ads, self._videos = self._clips(rows, "video")
        self.audio_ads, self._audios = self._clips(rows, "audio")
        self.native_ads, self._natives = _grouped(
            (
                (native.native_shape(creative.native), attr, frozenset(creative.apis))
                if creative.native is not None
                else None
                for creative, attr, _ in rows
            )
        )
        size = 500 + len(RULES) * (len(rows) // 8 + 100)

        def remembered(judge: Callable[[T], Masks]) -> Remembered[T, Masks]:
            return Remembered(judge, size, REMEMBERED_BYTES)

        self._by_video: Remembered[Video, Masks] = remembered(partial(_judged, self._videos))
        self._by_audio: Remembered[Audio, Masks] = remembered(partial(_judged, self._audios))
        self._by_native: Remembered[NativeKey, Masks] = remembered(self._native)

    @staticmethod
    def _clips(rows: Rows, name: str) -> tuple[int, dict[ClipShape, int]]:
        return _grouped(
            clip_shape(clip, attr, creative.apis, places) if (clip := getattr(creative, name)) is not None else None
            for creative, attr, places in rows
        )

    def video(self, offered: Video) -> Masks:
        return self._by_video[offered] if self.video_ads else {}

    def audio(self, offered: Audio) -> Masks:
        return self._by_audio[offered] if self.audio_ads else {}

    def native(self, offered: Native) -> Masks:
        if not self.native_ads:
            return {}
        return self._by_native[native_text(offered), offered.api, offered.battr]

    def _native(self, key: NativeKey) -> Masks:
        text, api, battr = key
        found = dict.fromkeys((Reason.API, Reason.CREATIVE_ATTRIBUTE, Reason.ASSETS), 0)
        request = native.read(text)
        for (of, attr, apis), mask in self._natives.items():
            if apis.issubset(api or ()):
                found[Reason.API] |= mask
            if attr.isdisjoint(battr or ()):
                found[Reason.CREATIVE_ATTRIBUTE] |= mask
            if request is not None and native.suits(of, request):
                found[Reason.ASSETS] |= mask
        return found


def _grouped(shapes: Iterable[Any]) -> tuple[int, dict[Any, int]]:
    """(ads with a shape, shape -> its ads)."""
    everything, found = 0, dict[Any, int]()
    for bit, one in enumerate(shapes):
        if one is not None:
            found[one] = found.get(one, 0) | 1 << bit
            everything |= 1 << bit
    return everything, found


def _judged(shapes: dict[ClipShape, int], offered: Timed) -> Masks:
    found = dict.fromkeys((reason for reason, _ in clips.RULES), 0)
    for of, mask in shapes.items():
        for reason, passes in clips.RULES:
            if passes(of, offered):
                found[reason] |= mask
    return found

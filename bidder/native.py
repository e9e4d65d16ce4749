"""Native ads (Native Ads 1.2): reading what a placement asks for, and answering with the assets it wants.

1.0 wraps both objects in {"native": ...}, later versions do not; some exchanges wrap the request whatever its version,
encode it twice, or send an object in place of text. All of these are read.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct, field

from bidder import clips, lenient
from bidder.creatives import DATA_TYPES, Clip, Data, NativeAd, Picture
from bidder.openrtb_media import Video
from bidder.openrtb_types import MAX_CHARS, Flag, Int, Str

ICON, LOGO, MAIN = 1, 2, 3  # 7.5 Image Asset Types
IMPRESSION, VIEWABLE = 1, 2  # 7.6 Event Types: impression, viewable-mrc50
PIXEL = 1  # 7.7 Event Tracking Methods
IMAGE_MIMES = {
    "jpg": ("image/jpeg", "image/jpg"), "jpeg": ("image/jpeg", "image/jpg"), "png": ("image/png",),
    "gif": ("image/gif",), "webp": ("image/webp",),
}  # fmt: skip
_NAMES: dict[int, Data] = {number: name for name, number in DATA_TYPES.items()}
_decoder = msgspec.json.Decoder()


class Title(Struct, frozen=True):
    len: Int | None = None


class Image(Struct, frozen=True):
    """w, h: exact size; wmin, hmin: least size, which makes w and h a wish."""

    type: Int | None = None
    w: Int | None = None
    h: Int | None = None
    wmin: Int | None = None
    hmin: Int | None = None
    mimes: tuple[Str, ...] | None = None


class DataAsset(Struct, frozen=True):
    type: Int | None = None
    len: Int | None = None


class Asset(Struct, frozen=True):
    """Exactly one of the four is there in a sound request. unusable: why it cannot be supplied."""

    id: Int | None = None
    required: Flag | None = None
    title: Title | None = None
    img: Image | None = None
    video: Video | None = None
    data: DataAsset | None = None
    unusable: str | None = field(default=None, name="tagbid:unusable")


class Tracker(Struct, frozen=True):
    event: Int | None = None
    methods: tuple[Int, ...] | None = None


class NativeRequest(Struct, frozen=True):
    """ver: "1.0" wraps its answer."""

    assets: tuple[Asset, ...] = ()
    ver: Str | None = None
    eventtrackers: tuple[Tracker, ...] | None = None
    privacy: Flag | None = None

    def tracks(self, event: int) -> bool:
        """Whether a pixel may tell of an event."""
        return any(t.event == event and PIXEL in (t.methods or ()) for t in self.eventtrackers or ())


@lru_cache(maxsize=4096)
def read(text: str) -> NativeRequest | None:
    """What a placement asks for; None when it cannot be read, asks for nothing, or is too long for a text (S-04)."""
    if len(text) > MAX_CHARS:
        return None
    raw: Any = text
    try:
        for _ in range(2):  # some encode it twice
            if isinstance(raw, str):
                raw = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(raw, dict) and isinstance(raw.get("native"), dict):
        raw = raw["native"]
    if not isinstance(raw, dict):
        return None
    found = lenient.read(NativeRequest, raw)
    names = [asset.id for asset in found.assets]
    return found if found.assets and None not in names and len(set(names)) == len(names) else None


class NativeShape(Struct, frozen=True):
    """All of a native ad that decides whether it fits. data: type -> lengths of its texts."""

    titles: tuple[int, ...]
    icons: tuple[Picture, ...]
    images: tuple[Picture, ...]
    data: tuple[tuple[int, tuple[int, ...]], ...]
    video: Clip | None


def native_shape(ad: NativeAd) -> NativeShape:
    return NativeShape(
        tuple(sorted({len(title) for title in ad.titles})),
        ad.icons,
        ad.images,
        tuple(
            sorted((DATA_TYPES[name], tuple(sorted({len(text) for text in texts}))) for name, texts in ad.data.items())
        ),
        ad.video,
    )


def suits(of: NativeShape, request: NativeRequest) -> bool:
    """Whether every required asset is there and small enough, and there is anything to show at all."""
    data = dict(of.data)
    found = 0
    for asset in request.assets:
        if asset.unusable is not None:
            there = False
        elif asset.title is not None:
            there = _fits(of.titles, asset.title.len)
        elif asset.img is not None:
            there = image(asset.img, of.icons, of.images) is not None
        elif asset.data is not None:
            there = _fits(data.get(asset.data.type or 0, ()), asset.data.len)
        else:
            there = (
                asset.video is not None and of.video is not None and clips.version(of.video, asset.video) is not None
            )
        found += there
        if asset.required and not there:
            return False
    return found > 0


def _fits(lengths: Sequence[int], most: int | None) -> bool:
    return any(not most or most < 0 or length <= most for length in lengths)


def _longest(texts: Sequence[str], most: int | None) -> str | None:
    return max((text for text in texts if not most or most < 0 or len(text) <= most), key=len, default=None)


def image(wanted: Image, icons: Sequence[Picture], images: Sequence[Picture]) -> Picture | None:
    """The best picture for an image asset: of its kind, of its size, of a type it takes; the closest to its wish."""
    kinds = icons if wanted.type in (ICON, LOGO) else images if wanted.type == MAIN else (*images, *icons)
    fitting = [picture for picture in kinds if _picture_fits(wanted, picture)]
    return min(fitting, key=lambda p: abs(p.w - (wanted.w or p.w)) + abs(p.h - (wanted.h or p.h)), default=None)


def _picture_fits(wanted: Image, picture: Picture) -> bool:
    for length, exact, least in ((picture.w, wanted.w, wanted.wmin), (picture.h, wanted.h, wanted.hmin)):
        if least and least > 0:
            if length < least:
                return False
        elif exact and exact > 0 and length != exact:
            return False
    return not wanted.mimes or not {mime.lower() for mime in wanted.mimes}.isdisjoint(image_mimes(picture.url))


def image_mimes(url: str) -> tuple[str, ...]:
    """The types an image's address says it is of; () when it says none.

    >>> image_mimes("https://cdn.example/a.jpg?v=1"), image_mimes("https://cdn.example/a")
    (('image/jpeg', 'image/jpg'), ())
    """
    return IMAGE_MIMES.get(url.partition("?")[0].rpartition(".")[2].lower(), ())


def answer(
    ad: NativeAd, request: NativeRequest, click_url: str, pixel_url: str, view_url: str, vast: Callable[[str], str]
) -> dict[str, Any]:
    """The native response object. vast: VAST version -> document."""
    assets: list[dict[str, Any]] = []
    for asset in request.assets:
        value = _value(ad, asset, vast)
        if value is not None:
            assets.append({"id": asset.id, **value})
    found: dict[str, Any] = {"ver": request.ver or "1.2", "assets": assets, "link": {"url": click_url}}
    if request.eventtrackers is None:
        found["imptrackers"] = [pixel_url]
    else:
        pairs = ((IMPRESSION, pixel_url), (VIEWABLE, view_url))
        found["eventtrackers"] = [
            {"event": event, "method": PIXEL, "url": url} for event, url in pairs if request.tracks(event)
        ]
        if not request.tracks(IMPRESSION):
            found["imptrackers"] = [pixel_url]
    if request.privacy and ad.privacy_url:
        found["privacy"] = ad.privacy_url
    return {"native": found} if request.ver in ("1", "1.0") else found


def _value(ad: NativeAd, asset: Asset, vast: Callable[[str], str]) -> dict[str, Any] | None:
    if asset.unusable is not None:
        return None
    if asset.title is not None:
        title = _longest(ad.titles, asset.title.len)
        return None if title is None else {"title": {"text": title}}
    if asset.img is not None:
        found = image(asset.img, ad.icons, ad.images)
        return None if found is None else {"img": {"url": found.url, "w": found.w, "h": found.h}}
    if asset.data is not None:
        name = _NAMES.get(asset.data.type or 0)
        text = _longest(ad.data.get(name, ()), asset.data.len) if name is not None else None
        return None if text is None else {"data": {"value": text}}
    if asset.video is not None and ad.video is not None:
        version = clips.version(ad.video, asset.video)
        return None if version is None else {"video": {"vasttag": vast(version)}}
    return None

"""Creatives as data: one banner, video, audio clip or native ad each, and what an exchange must know of it."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Literal

from msgspec import Meta, Struct

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
Pixels = Annotated[int, Meta(ge=1, le=10_000)]
Url = Annotated[str, Meta(max_length=2048)]
Seconds = Annotated[float, Meta(gt=0, le=3_600)]
Mime = Annotated[str, Meta(min_length=3, max_length=127, pattern=r"^[a-z0-9.+-]+/[a-z0-9.+-]+\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=1_000)]
Version = Literal["2.0", "3.0", "4.0", "4.1", "4.2", "4.3"]

INLINE: dict[str, int] = {"2.0": 2, "3.0": 3, "4.0": 7, "4.1": 11, "4.2": 13, "4.3": 15}
WRAPPED: dict[str, int] = {"2.0": 5, "3.0": 6, "4.0": 8, "4.1": 12, "4.2": 14, "4.3": 16}
"""VAST version -> code of AdCOM, List: Creative Subtypes - Audio/Video, of an inline ad and of a wrapper."""

DAAST = 9
CLICK_ID = "${CLICK_ID}"
SKIPPABLE = 16  # AdCOM, List: Creative Attributes: the ad has a skip button of its own

MEDIA = {"banner": 1, "video": 2, "audio": 3, "native": 4}
"""What a creative is -> OpenRTB `bid.mtype`."""

Data = Literal[
    "sponsored", "desc", "rating", "likes", "downloads", "price", "saleprice", "phone", "address", "desc2",
    "displayurl", "ctatext",
]  # fmt: skip

DATA_TYPES: dict[Data, int] = {
    "sponsored": 1, "desc": 2, "rating": 3, "likes": 4, "downloads": 5, "price": 6, "saleprice": 7, "phone": 8,
    "address": 9, "desc2": 10, "displayurl": 11, "ctatext": 12,
}  # fmt: skip
"""Native Ads 1.2, 7.4 Data Asset Types."""


class MediaFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One encoding of a clip. w, h: pixels, 0 for sound. kbps: bit rate, 0 unknown."""

    url: Annotated[str, Meta(min_length=1, max_length=2048)]
    mime: Mime
    w: Annotated[int, Meta(ge=0, le=10_000)] = 0
    h: Annotated[int, Meta(ge=0, le=10_000)] = 0
    kbps: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    streaming: bool = False


class Clip(Struct, frozen=True, forbid_unknown_fields=True):
    """A video or a piece of sound: files of our own, or the address of somebody else's VAST (`tag_url`), never both.

    tag_version, mimes: what that VAST is and holds. w, h: the size of its picture.
    """

    duration_s: Seconds
    files: Annotated[tuple[MediaFile, ...], Meta(max_length=20)] = ()
    tag_url: Url = ""
    tag_version: Version = "3.0"
    mimes: tuple[Mime, ...] = ()
    w: Annotated[int, Meta(ge=0, le=10_000)] = 0
    h: Annotated[int, Meta(ge=0, le=10_000)] = 0


class Picture(Struct, frozen=True, forbid_unknown_fields=True):
    """An image of a native ad."""

    url: Annotated[str, Meta(min_length=1, max_length=2048)]
    w: Pixels
    h: Pixels


class NativeAd(Struct, frozen=True, forbid_unknown_fields=True):
    """What a native placement may pick from. titles and the texts of data: longest first is chosen that fits.

    icons: small logos (image type 1). images: main pictures (type 3). video: for placements that ask for one.
    """

    titles: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=10)]
    icons: Annotated[tuple[Picture, ...], Meta(max_length=50)] = ()
    images: Annotated[tuple[Picture, ...], Meta(max_length=50)] = ()
    data: dict[Data, Annotated[tuple[Text, ...], Meta(min_length=1, max_length=10)]] = {}
    video: Clip | None = None
    privacy_url: Url = ""


class Creative(Struct, frozen=True, forbid_unknown_fields=True):
    """One ad: a banner (w, h and either image_url or html), a video, an audio clip or a native ad.

    landing_url: where a click goes; ${CLICK_ID} in it becomes the id of the click, for conversions. attr: OpenRTB
    creative attributes. apis: frameworks the markup needs. secure: every asset is https; None works it out from the
    URLs. iurl: sample image. language: of its words, by BCP 47, or a list of several; "xx" for no words, "" unknown.
    flexible: a banner that fills any width at the ratio of w to h, for placements that ask for a ratio. bundle: store
    id of an advertised app. cat: categories when they differ from the campaign's. audit: exchange -> what it said of
    this creative; an exchange that audits (`audits` in its config) gets only creatives it has approved.
    """

    id: Name
    landing_url: Annotated[str, Meta(min_length=1, max_length=2048)]
    w: Annotated[int, Meta(ge=0, le=10_000)] = 0
    h: Annotated[int, Meta(ge=0, le=10_000)] = 0
    image_url: Url = ""
    html: Annotated[str, Meta(max_length=65_536)] = ""
    video: Clip | None = None
    audio: Clip | None = None
    native: NativeAd | None = None
    attr: tuple[int, ...] = ()
    apis: tuple[int, ...] = ()
    secure: bool | None = None
    iurl: Url = ""
    language: str | tuple[str, ...] = ""
    flexible: bool = False
    bundle: str = ""
    cat: tuple[str, ...] = ()
    audit: dict[str, Literal["approved", "pending", "refused"]] = {}

    @property
    def media(self) -> str:
        """A key of `MEDIA`."""
        return next((name for name in ("video", "audio", "native") if getattr(self, name) is not None), "banner")

    @property
    def languages(self) -> tuple[str, ...]:
        """As they were told, () unknown."""
        told = (self.language,) if isinstance(self.language, str) else self.language
        return tuple(name for name in told if name)

    @property
    def clip(self) -> Clip | None:
        """The video or the sound."""
        return self.video or self.audio


def assets(creative: Creative) -> Iterator[str]:
    """Every address the page or the player loads for a creative, and HTML that may hold some."""
    yield from (creative.image_url, creative.html, creative.iurl)
    clips = [creative.video, creative.audio]
    if creative.native is not None:
        clips.append(creative.native.video)
        yield from (picture.url for picture in creative.native.icons + creative.native.images)
    for clip in clips:
        if clip is not None:
            yield clip.tag_url
            yield from (file.url for file in clip.files)


def is_secure(creative: Creative) -> bool:
    """Whether an imp that asks for https can show it: as declared, else no address of an asset is plain http."""
    if creative.secure is not None:
        return creative.secure
    return not any("http://" in text.lower() for text in assets(creative))


def shape(w: int, h: int) -> Fraction:
    """Width to height; 0 when either is unknown."""
    return Fraction(w, h) if w and h else Fraction(0)


def problems_of(creative: Creative) -> list[str]:
    """What cannot stand together in one creative."""
    kinds = [name for name in ("video", "audio", "native") if getattr(creative, name) is not None]
    banner = bool(creative.image_url or creative.html)
    problems = []
    if len(kinds) + banner != 1:
        problems.append("needs exactly one of image_url and html, video, audio, native")
    if banner:
        if creative.image_url and creative.html:
            problems.append("needs exactly one of image_url and html")
        if not (creative.w and creative.h):
            problems.append("a banner needs w and h")
    elif creative.flexible:
        problems.append("only a banner can be flexible")
    clips = [(name, clip) for name in ("video", "audio") if (clip := getattr(creative, name)) is not None]
    if creative.native is not None and creative.native.video is not None:
        clips.append(("native video", creative.native.video))
    for name, clip in clips:
        problems += [f"{name}: {problem}" for problem in _clip_problems(clip, picture=name != "audio")]
    return problems


def _clip_problems(clip: Clip, picture: bool) -> list[str]:
    problems = []
    if bool(clip.files) == bool(clip.tag_url):
        problems.append("needs either files or a tag_url")
    if clip.tag_url and not clip.mimes:
        problems.append("a tag_url needs mimes: what the VAST behind it holds")
    if picture and any(not (file.w and file.h) for file in clip.files):
        problems.append("every file of a picture needs w and h")
    return problems

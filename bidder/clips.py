"""Whether a clip fits what a player takes: files, document version, length, picture, frameworks, attributes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct

from bidder.creatives import DAAST, INLINE, SKIPPABLE, WRAPPED, Clip, shape
from bidder.openrtb_media import Timed, Video, placement_of
from bidder.reasons import Reason

NON_LINEAR = 2
UNLIMITED = -1  # maxextended
SAME_SHAPE = 1.03  # pictures whose width to height differs by less are of one shape


class File(Struct, frozen=True):
    mime: str
    w: int
    h: int
    kbps: int
    streaming: bool


class ClipShape(Struct, frozen=True):
    """All that decides whether a clip fits. wrapper: version of the VAST it points at, "" for files of our own.

    placements: numbers of the video placements its campaign wants, empty for any.
    """

    duration_s: float
    files: tuple[File, ...]
    mimes: frozenset[str]
    wrapper: str
    w: int
    h: int
    attr: frozenset[int]
    apis: frozenset[int]
    placements: frozenset[int] = frozenset()


def clip_shape(clip: Clip, attr: Iterable[int], apis: Iterable[int], placements: Iterable[int] = ()) -> ClipShape:
    files = tuple(sorted({(f.mime, f.w, f.h, f.kbps, f.streaming) for f in clip.files}))
    return ClipShape(
        clip.duration_s,
        tuple(File(*file) for file in files),
        frozenset(clip.mimes),
        clip.tag_version if clip.tag_url else "",
        clip.w,
        clip.h,
        frozenset(attr),
        frozenset(apis),
        frozenset(placements),
    )


def protocol(wrapper: str, offered: Timed, sound: bool = False) -> tuple[str, int] | None:
    """(version of our document, its code) that the player takes, the newest first; None when it takes none we make.

    wrapper: the version we point at, "" for an inline ad. A player that names no version gets VAST 3.0.
    """
    accepted = offered.protocols or ((offered.protocol,) if offered.protocol else ())
    if wrapper:
        code = WRAPPED[wrapper]
        return (wrapper, code) if not accepted or code in accepted else None
    if not accepted:
        return "3.0", INLINE["3.0"]
    for version, code in reversed(INLINE.items()):
        if code in accepted:
            return version, code
    return ("daast", DAAST) if sound and DAAST in accepted else None


def _file_fits(file: File, offered: Timed) -> bool:
    if file.mime not in _lower(offered.mimes or ()):
        return False
    if offered.delivery and (1 if file.streaming else 2) not in offered.delivery:
        return False
    if not file.kbps:
        return True
    return (offered.minbitrate or 0) <= file.kbps <= (offered.maxbitrate or file.kbps)


def _lower(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def _mime(of: ClipShape, offered: Timed) -> bool:
    """`mimes` is required: who does not say what the player takes gets nothing."""
    if not offered.mimes:
        return False
    if of.wrapper:
        return not of.mimes.isdisjoint(_lower(offered.mimes))
    return any(_file_fits(file, offered) for file in of.files)


def _duration(of: ClipShape, offered: Timed) -> bool:
    """`rqddurs` are exact and exclude the limits; an ad of a pod must fit into it."""
    if offered.poddur is not None and of.duration_s > offered.poddur:
        return False
    if offered.rqddurs:
        return of.duration_s in offered.rqddurs
    if of.duration_s < (offered.minduration or 0):
        return False
    if offered.maxduration is None or offered.maxextended == UNLIMITED:
        return True
    return of.duration_s <= offered.maxduration + max(0, offered.maxextended or 0)


def picture(files: Sequence[File], offered: Video) -> tuple[int, int] | None:
    """(w, h) of the largest file that the player can show; None when there is none."""
    fitting = [(f.w * f.h, f.w, f.h) for f in files if _file_fits(f, offered) and _inside(f.w, f.h, offered)]
    return max(fitting)[1:] if fitting else None


def _inside(w: int, h: int, offered: Video) -> bool:
    """No larger than the player, and of its shape where it adds no bars. A side that is not told is unknown."""
    room_w, room_h = offered.w or 0, offered.h or 0
    if (room_w and w > room_w) or (room_h and h > room_h):
        return False
    if offered.boxingallowed is not None and not offered.boxingallowed and room_w > 0 and room_h > 0 and w and h:
        ratio = shape(w, h) / shape(room_w, room_h)
        return 1 / SAME_SHAPE < ratio < SAME_SHAPE
    return True


def _size(of: ClipShape, offered: Timed) -> bool:
    if not isinstance(offered, Video):
        return True
    if of.wrapper:
        return _inside(of.w, of.h, offered)
    return picture(of.files, offered) is not None


def _attribute(of: ClipShape, offered: Timed) -> bool:
    if isinstance(offered, Video) and offered.skip and SKIPPABLE in of.attr:
        return False  # the player adds the button; two would be one too many
    return of.attr.isdisjoint(offered.battr or ())


RULES: tuple[tuple[Reason, Callable[[ClipShape, Any], bool]], ...] = (
    (Reason.MIME, _mime),
    (Reason.PROTOCOL, lambda of, offered: protocol(of.wrapper, offered, not isinstance(offered, Video)) is not None),
    (Reason.DURATION, _duration),
    (Reason.LINEARITY, lambda _, offered: not isinstance(offered, Video) or offered.linearity != NON_LINEAR),
    (
        Reason.PLACEMENT,
        lambda of, offered: (
            not of.placements or not isinstance(offered, Video) or placement_of(offered) in of.placements
        ),
    ),
    (Reason.SIZE, _size),
    (Reason.API, lambda of, offered: of.apis.issubset(offered.api or ())),
    (Reason.CREATIVE_ATTRIBUTE, _attribute),
)
"""The rules in the order they are asked, and what passes them."""


def version(clip: Clip, offered: Timed) -> str | None:
    """The VAST version a player takes a clip in; None when it cannot show it."""
    of = clip_shape(clip, (), ())
    if not all(passes(of, offered) for _, passes in RULES):
        return None
    found = protocol(of.wrapper, offered)
    return found[0] if found else None

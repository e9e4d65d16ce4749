"""Rules about what a banner object takes: sizes, attributes, types, image formats, frameworks."""

from fractions import Fraction

from bidder.index import Index
from bidder.openrtb_media import Banner, Format


def size(index: Index, banner: Banner | None) -> int:
    if banner is None:
        return 0
    mask = index.sizes.get((banner.w, banner.h), 0)
    for permitted in banner.format or ():
        mask |= index.sizes.get((permitted.w, permitted.h), 0)
        if permitted.wratio and index.flexible:
            mask |= _flexible(index, permitted)
    return mask


def _flexible(index: Index, permitted: Format) -> int:
    """Flexible banners of a ratio that are as wide as the placement will ever show them at least."""
    shape = ratio(permitted)
    mask = 0
    for width, ads in index.flexible.get(shape, ()) if shape else ():
        if width >= (permitted.wmin or 0):
            mask |= ads
    return mask


def ratio(permitted: Format) -> Fraction:
    """Width to height of a format of a ratio, 0 for one that has none."""
    w, h = permitted.wratio or 0, permitted.hratio or 0
    return Fraction(w, h) if w > 0 and h > 0 else Fraction(0)


def attribute(index: Index, banner: Banner | None) -> int:
    blocked = 0
    for number in (banner.battr or ()) if banner is not None else ():
        blocked |= index.attributes.get(number, 0)
    return index.everything & ~blocked


def creative_type(index: Index, banner: Banner | None) -> int:
    """`btype`: 2 an image with a link, 1, 3 and 4 what HTML of an advertiser may hold."""
    blocked = 0
    for number in (banner.btype or ()) if banner is not None else ():
        blocked |= index.types.get(number, 0)
    return index.everything & ~blocked


def mime(index: Index, banner: Banner | None) -> int:
    """`banner.mimes` names what images may be; HTML and images of no known type are not held against it."""
    wanted = banner.mimes if banner is not None else None
    if not wanted:
        return index.everything
    named = [name.lower() for name in wanted]
    if not any(name.startswith("image/") for name in named):
        return index.everything
    mask = index.banner_mimes.free
    for name in named:
        mask |= index.banner_mimes.masks.get(name, 0)
    return mask


def api(index: Index, banner: Banner | None) -> int:
    """Only the frameworks a banner lists are there; none when it lists none."""
    supported = (banner.api or ()) if banner is not None else ()
    missing = 0
    for framework, ads in index.apis.items():
        if framework not in supported:
            missing |= ads
    return index.everything & ~missing

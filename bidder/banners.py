"""Rules about what a banner object takes: sizes, attributes, types, image formats, frameworks."""

from bidder.index import Index
from bidder.openrtb import Imp
from bidder.view import View


def size(index: Index, seen: View, imp: Imp) -> int:
    banner = imp.banner
    if banner is None:
        return 0
    mask = index.sizes.get((banner.w, banner.h), 0)
    for permitted in banner.format or ():
        mask |= index.sizes.get((permitted.w, permitted.h), 0)
    return mask


def attribute(index: Index, seen: View, imp: Imp) -> int:
    blocked = 0
    for number in (imp.banner.battr or ()) if imp.banner is not None else ():
        blocked |= index.attributes.get(number, 0)
    return index.everything & ~blocked


def creative_type(index: Index, seen: View, imp: Imp) -> int:
    """`btype`: 2 an image with a link, 1, 3 and 4 what HTML of an advertiser may hold."""
    blocked = 0
    for number in (imp.banner.btype or ()) if imp.banner is not None else ():
        blocked |= index.types.get(number, 0)
    return index.everything & ~blocked


def mime(index: Index, seen: View, imp: Imp) -> int:
    """`banner.mimes` names what images may be; HTML and images of no known type are not held against it."""
    wanted = imp.banner.mimes if imp.banner is not None else None
    if not wanted or not any(name.startswith("image/") for name in wanted):
        return index.everything
    mask = index.banner_mimes.free
    for name in wanted:
        mask |= index.banner_mimes.masks.get(name.lower(), 0)
    return mask


def api(index: Index, seen: View, imp: Imp) -> int:
    """Only the frameworks a banner lists are there; none when it lists none."""
    supported = (imp.banner.api or ()) if imp.banner is not None else ()
    missing = 0
    for framework, ads in index.apis.items():
        if framework not in supported:
            missing |= ads
    return index.everything & ~missing

"""Rules about where an ad would be shown: on the earth, in which site or app, on a page about what."""

from math import floor

from bidder.geo import km_between
from bidder.index import Index
from bidder.view import View, keywords


def geo(index: Index, seen: View) -> int:
    mask = index.geo_free | index.countries.get(seen.country, 0)
    if index.regions:
        mask |= index.regions.get(seen.region, 0)
    if index.cities:
        mask |= index.cities.get(seen.city, 0)
    if index.circles and seen.lat is not None and seen.lon is not None:
        for circle in index.circles.get(cell(seen.lat, seen.lon), ()):
            if km_between(seen.lat, seen.lon, circle.lat, circle.lon) <= circle.km:
                mask |= circle.mask
    if index.polygons and seen.lat is not None and seen.lon is not None:
        for area in index.polygons.get(cell(seen.lat, seen.lon), ()):
            if inside(seen.lat, seen.lon, area.corners):
                mask |= area.mask
    return mask & ~(index.not_countries.get(seen.country, 0) | index.not_regions.get(seen.region, 0))


def cell(lat: float, lon: float) -> tuple[int, int]:
    """The one-degree cell of a point; 180 degrees east is 180 degrees west."""
    return floor(lat), (floor(lon) + 180) % 360 - 180


def inside(lat: float, lon: float, corners: tuple[tuple[float, float], ...]) -> bool:
    """Whether a point lies in a polygon, by the edges a line from it to the east crosses.

    >>> inside(1, 1, ((0, 0), (0, 3), (3, 3), (3, 0))), inside(1, 4, ((0, 0), (0, 3), (3, 3), (3, 0)))
    (True, False)
    """
    odd = False
    south, west = corners[-1]
    for north, east in corners:
        if (north > lat) != (south > lat) and lon < west + (lat - south) / (north - south) * (east - west):
            odd = not odd
        south, west = north, east
    return odd


def inventory(index: Index, seen: View) -> int:
    """Domain lists cover subdomains; an unknown domain or app is on no list."""
    mask, blocked = index.inventory_free, 0
    domain = seen.domain
    while domain:
        mask |= index.domains.get(domain, 0)
        blocked |= index.not_domains.get(domain, 0)
        domain = domain.partition(".")[2]
    if seen.bundle:
        mask |= index.apps.get(seen.bundle, 0)
        blocked |= index.not_apps.get(seen.bundle, 0)
    return mask & ~blocked


def category(index: Index, seen: View) -> int:
    """Page categories against campaign rules; a rule for a parent holds for its children."""
    wanted, unwanted = index.categories.masks, index.not_categories
    mask, blocked = index.categories.free, 0
    for code in seen.categories:
        mask |= wanted.get(code, 0)
        blocked |= unwanted.get(code, 0)
        parent, dash, _ = code.partition("-")
        if dash:
            mask |= wanted.get(parent, 0)
            blocked |= unwanted.get(parent, 0)
    return mask & ~blocked


def keyword(index: Index, seen: View) -> int:
    mask, blocked = index.keywords.free, 0
    for word in keywords(seen.request):
        mask |= index.keywords.masks.get(word, 0)
        blocked |= index.not_keywords.get(word, 0)
    return mask & ~blocked


def hot(index: Index, seen: View) -> int:
    """All ads on a page about something hot, else those that do not ask for that."""
    topics = index.topics
    if not topics.of:
        return index.hot_free
    categories = {part for code in seen.categories for part in (code, code.partition("-")[0])}
    found = topics.meet(categories, seen.now_us) or topics.meet(keywords(seen.request), seen.now_us)
    return index.everything if found else index.hot_free

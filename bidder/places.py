"""Rules about where an ad would be shown: on the earth, in which site or app, on a page about what."""

from bidder.index import Index
from bidder.pages import Page
from bidder.view import View
from bidder.wording import keywords
from models.context import Reader


def region(index: Index, reader: Reader) -> int:
    """Countries, regions and cities, where no campaign asks for a geofence."""
    mask = index.geo_free | index.countries.get(reader.country, 0)
    if index.regions:
        mask |= index.regions.get(reader.region, 0)
    if index.cities:
        mask |= index.cities.get(reader.city, 0)
    return mask & ~_shut_out(index, reader)


def geo(index: Index, seen: View) -> int:
    """Countries, regions and cities, or any geofence the device is in."""
    mask = region(index, seen.reader)
    for fence in index.fences.at(seen.lat, seen.lon):
        mask |= fence.mask
    return mask & ~_shut_out(index, seen.reader)


def _shut_out(index: Index, reader: Reader) -> int:
    return index.not_countries.get(reader.country, 0) | index.not_regions.get(reader.region, 0)


def inventory(index: Index, page: Page) -> int:
    """Domain lists cover subdomains; an unknown domain or app is on no list."""
    mask, blocked = index.inventory_free, 0
    domain = page.domain
    while domain:
        mask |= index.domains.get(domain, 0)
        blocked |= index.not_domains.get(domain, 0)
        domain = domain.partition(".")[2]
    if page.bundle:
        mask |= index.apps.get(page.bundle, 0)
        blocked |= index.not_apps.get(page.bundle, 0)
    return mask & ~blocked


def category(index: Index, page: Page) -> int:
    """Page categories against campaign rules; a rule for a parent holds for its children."""
    wanted, unwanted = index.categories.masks, index.not_categories
    mask, blocked = index.categories.free, 0
    for code in page.categories:
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
    categories = {part for code in seen.page.categories for part in (code, code.partition("-")[0])}
    found = topics.meet(categories, seen.now_us) or topics.meet(keywords(seen.request), seen.now_us)
    return index.everything if found else index.hot_free

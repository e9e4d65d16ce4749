"""Geofences: which circles and polygons of campaigns a place lies in, by a grid of one-degree cells."""

from collections.abc import Sequence
from math import ceil, cos, floor, radians

import msgspec

from bidder.campaigns import Polygon, Radius
from bidder.geo import km_between
from dmp import keys

KM_PER_DEGREE = 111.0  # of latitude, rounded down so that cells err on the large side


class Fence(msgspec.Struct, frozen=True):
    """An area and the ads that accept a place in it. corners: (lat, lon), () for a circle of `km` around a point."""

    number: int
    mask: int
    lat: float = 0.0
    lon: float = 0.0
    km: float = 0.0
    corners: Polygon = ()

    def holds(self, lat: float, lon: float) -> bool:
        if self.corners:
            return inside(lat, lon, self.corners)
        return km_between(lat, lon, self.lat, self.lon) <= self.km


class Fences:
    """The fences of a snapshot. It remembers the place it was asked for last, because a request asks twice."""

    __slots__ = ("_cells", "_found", "_place")

    def __init__(self, fences: Sequence[Fence]) -> None:
        self._place: tuple[float, float] | None = None
        self._found: tuple[Fence, ...] = ()
        cells: dict[tuple[int, int], list[Fence]] = {}
        for fence in fences:
            for at in _touched(fence):
                cells.setdefault(at, []).append(fence)
        self._cells = {at: tuple(found) for at, found in cells.items()}

    def __bool__(self) -> bool:
        return bool(self._cells)

    def at(self, lat: float | None, lon: float | None) -> tuple[Fence, ...]:
        """The fences a place lies in; none for an unknown place."""
        if lat is None or lon is None or not self._cells:
            return ()
        if self._place != (lat, lon):
            self._place = lat, lon
            self._found = tuple(fence for fence in self._cells.get(cell(lat, lon), ()) if fence.holds(lat, lon))
        return self._found


def number(area: object) -> int:
    """What a radius or a polygon is called in features and logs: the same for the same area."""
    return keys.number(repr(msgspec.to_builtins(area)))


def circle(area: Radius, mask: int) -> Fence:
    return Fence(number(area), mask, area.lat, area.lon, area.km)


def polygon(area: Polygon, mask: int) -> Fence:
    return Fence(number(area), mask, corners=area)


def cell(lat: float, lon: float) -> tuple[int, int]:
    """The one-degree cell of a point; 180 degrees east is 180 degrees west."""
    return floor(lat), (floor(lon) + 180) % 360 - 180


def inside(lat: float, lon: float, corners: Polygon) -> bool:
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


def _touched(fence: Fence) -> set[tuple[int, int]]:
    """Every cell a fence may reach into; a point looks into its own cell only."""
    if fence.corners:
        lats, lons = [lat for lat, _ in fence.corners], [lon for _, lon in fence.corners]
        south, north, west, east = min(lats), max(lats), floor(min(lons)), floor(max(lons))
    else:
        high = fence.km / KM_PER_DEGREE
        south, north = max(-90.0, fence.lat - high), min(90.0, fence.lat + high)
        narrowest = cos(radians(max(abs(south), abs(north))))
        wide = 180.0 if narrowest < 0.02 else min(180.0, high / narrowest)
        west, east = floor(fence.lon - wide), ceil(fence.lon + wide)
    return {
        cell(lat, lon)
        for lat in range(floor(south), floor(north) + 1)
        for lon in range(west, min(east, west + 359) + 1)
    }

import msgspec
import pytest
from lxml import etree

from bidder.creatives import Clip
from bidder.vast import EVENTS, NAMESPACE, TOKEN, Urls, document, versions

URLS = Urls("https://bid.example")
VIDEO = {
    "duration_s": 15.5,
    "files": [{"url": "https://c.example/a.mp4?x=1&y=2", "mime": "video/mp4", "w": 640, "h": 360}],
}
TAG = {"duration_s": 15, "tag_url": "https://other.example/vast?a=1&b=2", "tag_version": "4.1", "mimes": ["video/mp4"]}


def made(clip, version, urls=URLS):
    """The document, its namespace taken off the names of its elements."""
    root = etree.fromstring(document(a_clip(clip), "crid <1>", version, urls).encode())
    assert root.nsmap == ({None: NAMESPACE} if version.startswith("4") else {})
    for element in root.iter():
        element.tag = etree.QName(element).localname
    return root


def a_clip(fields):
    return msgspec.convert(fields, Clip)


@pytest.mark.parametrize("version", ["2.0", "3.0", "4.0", "4.1", "4.2", "4.3"])
def test_every_version_tells_length_file_click_and_impression(version):
    root = made(VIDEO, version)
    assert (root.tag, root.get("version")) == ("VAST", version)
    assert root.findtext(".//Duration") == "00:00:15.500"
    file = root.find(".//MediaFile")
    assert (file.text, file.get("type"), file.get("width"), file.get("height"), file.get("delivery")) == (
        "https://c.example/a.mp4?x=1&y=2",
        "video/mp4",
        "640",
        "360",
        "progressive",
    )
    assert root.findtext(".//ClickThrough") == f"https://bid.example/click?t={TOKEN}"
    assert root.findtext(".//Impression") == f"https://bid.example/imp?t={TOKEN}&p=${{AUCTION_PRICE}}"
    assert [event.get("event") for event in root.iter("Tracking")] == list(EVENTS)
    assert root.find(".//Ad").get("id") == "crid <1>"


@pytest.mark.parametrize(
    ("version", "tag"),
    [("2.0", "UniversalAdId"), ("3.0", "UniversalAdId"), ("4.0", "AdServingId"), ("3.0", "AdServingId")],
)
def test_elements_of_later_versions_do_not_stand_in_earlier_ones(version, tag):
    assert made(VIDEO, version).find(f".//{tag}") is None
    assert made(VIDEO, "4.2").find(f".//{tag}") is not None


def test_a_wrapper_points_at_the_other_document_and_counts_clicks_without_leading_them():
    root = made(TAG, "4.1")
    assert root.findtext(".//Wrapper/VASTAdTagURI") == TAG["tag_url"]
    assert root.findtext(".//ClickTracking") == f"https://bid.example/click?t={TOKEN}"
    assert root.find(".//ClickThrough") is None
    assert root.find(".//MediaFile") is None
    assert list(versions(a_clip(TAG), sound=False)) == ["4.1"]


def test_sound_may_be_asked_for_as_daast():
    clip = {"duration_s": 30, "files": [{"url": "https://c.example/a.mp3", "mime": "audio/mpeg", "kbps": 128}]}
    root = made(clip, "daast")
    assert (root.tag, root.get("version"), root.findtext(".//Duration")) == ("DAAST", "1.0", "00:00:30")
    assert "daast" in versions(a_clip(clip), sound=True)
    assert "daast" not in versions(a_clip(clip), sound=False)


ORDER = {
    "InLine 2.0": "AdSystem AdTitle Error Impression Creatives",
    "InLine 3.0": "AdSystem AdTitle Error Impression Creatives",
    "InLine 4.0": "AdSystem Error Impression ViewableImpression AdTitle Creatives",
    "InLine 4.1": "AdSystem Error Impression ViewableImpression AdServingId AdTitle Creatives",
    "InLine 4.2": "AdSystem Error Impression ViewableImpression AdServingId AdTitle Creatives",
    "InLine 4.3": "AdSystem Error Impression ViewableImpression AdServingId AdTitle Creatives",
    "Wrapper 2.0": "AdSystem VASTAdTagURI Error Impression Creatives",
    "Wrapper 3.0": "AdSystem VASTAdTagURI Error Impression Creatives",
    "Wrapper 4.0": "AdSystem Error Impression ViewableImpression Creatives VASTAdTagURI",
    "Wrapper 4.1": "AdSystem Error Impression ViewableImpression Creatives VASTAdTagURI",
    "Wrapper 4.2": "AdSystem Error Impression ViewableImpression Creatives VASTAdTagURI",
    "Wrapper 4.3": "AdSystem Error Impression ViewableImpression Creatives VASTAdTagURI",
}
"""Elements in the order of the schema of each version: what a type extends comes before what it adds."""


@pytest.mark.parametrize("case", ORDER)
def test_elements_stand_in_the_order_of_the_schema(case):
    kind, version = case.split()
    root = made(VIDEO if kind == "InLine" else TAG | {"tag_version": version}, version)
    (body,) = root.findall(f"Ad/{kind}")
    assert " ".join(child.tag for child in body) == ORDER[case]
    (creative,) = body.findall("Creatives/Creative")
    four, inline = version.startswith("4"), kind == "InLine"
    assert [child.tag for child in creative] == (["Linear", "UniversalAdId"] if four and inline else ["Linear"])
    assert [child.tag for child in creative[0]] == (
        ["TrackingEvents", "Duration", "MediaFiles", "VideoClicks"] if four and inline
        else ["Duration", "TrackingEvents", "VideoClicks", "MediaFiles"] if inline
        else ["TrackingEvents", "VideoClicks"]
    )  # fmt: skip


@pytest.mark.parametrize(("version", "kind"), [("4.0", None), ("4.1", "audio"), ("4.3", "audio")])
def test_sound_says_that_it_is_sound_where_the_version_can(version, kind):
    clip = {"duration_s": 30, "files": [{"url": "https://c.example/a.mp3", "mime": "audio/mpeg", "kbps": 128}]}
    assert made(clip, version).find("Ad").get("adType") == kind
    assert made(VIDEO, version).find("Ad").get("adType") is None

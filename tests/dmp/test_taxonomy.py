import csv
import re
from hashlib import sha256

import pyarrow.parquet as pq
import pytest

from dmp import taxonomy
from dmp.taxonomy import BY_NAME, INTERESTS, TAGS, UnknownTag, find, tag_id, tag_name

VERTICALS = [
    "travel", "automotive", "beauty", "fashion", "finance", "food", "gaming", "health", "home", "parenting", "pets",
    "sports", "technology", "real_estate", "education", "entertainment", "music", "news", "books", "mobile_apps",
    "shopping", "electronics", "fitness", "diy", "arts", "careers", "science", "business", "law",
    "religion", "politics",
]  # fmt: skip


def test_ids_and_names_are_unique_and_fit_the_stored_form():
    assert len({tag.id for tag in TAGS}) == len({tag.name for tag in TAGS}) == len(TAGS)
    assert all(0 < tag.id < 2**32 for tag in TAGS)
    assert all(re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)*", tag.name) for tag in TAGS)


def test_every_parent_exists_and_comes_first():
    seen = {""}
    for tag in TAGS:
        assert tag.parent in seen, tag.name
        assert tag.name.startswith(tag.parent)
        seen.add(tag.name)


@pytest.mark.parametrize("vertical", VERTICALS)
def test_each_vertical_has_an_interest_that_lasts_longer_than_its_purchase_intent(vertical):
    interest, intent = BY_NAME[f"interest.{vertical}"], BY_NAME[f"intent.{vertical}"]
    assert interest.id in INTERESTS
    assert 0 < intent.half_life_days < interest.half_life_days
    assert intent.ttl_days < interest.ttl_days
    assert intent.sensitive == interest.sensitive


def test_ages_genders_and_quintiles_have_tags():
    for name in ("gender.male", "gender.female", "age.18_24", "age.25_34", "age.35_44", "age.45_54", "age.55_64"):
        assert BY_NAME[f"demographic.{name}"].half_life_days == 0
    assert tag_id("demographic.age.65_plus")
    for family in ("recency", "frequency"):
        assert [tag_name(tag_id(f"rfm.{family}.{n}"))[-1] for n in range(1, 6)] == list("12345")


@pytest.mark.parametrize("name", ["health", "religion", "politics", "dating"])
def test_special_categories_are_marked_sensitive(name):
    assert BY_NAME[f"interest.{name}"].sensitive


def test_published_ids_never_change():
    """Stored profiles hold these numbers. A new tag is a new line and a new hash here; no line above it changes."""
    lines = "".join(f"{tag.id} {tag.name}\n" for tag in sorted(TAGS, key=lambda tag: tag.id) if tag.id <= 2037)
    assert sha256(lines.encode()).hexdigest() == "0bfbc6a2680b9bcf8d6a320e157c2ab9eca45da00daf65283fa57b77dc30b04c"


def test_published_ids_of_the_full_tree_never_change():
    lines = "".join(f"{tag.id} {tag.name}\n" for tag in sorted(TAGS, key=lambda tag: tag.id) if tag.id <= 6059)
    assert sha256(lines.encode()).hexdigest() == "f1307b86c429c31f375fb53d3926ed35868ab9bce165235879b6533ce0b09cb5"


def test_the_tree_speaks_of_every_side_of_a_user():
    leaves = [tag for tag in TAGS if tag.kind not in ("root", "group")]
    assert len(leaves) >= 300
    assert {taxonomy.facet_of(tag) for tag in leaves} >= {
        "demographic", "location", "device", "interest", "intent", "power", "brand", "channel", "time", "lifecycle",
        "content", "media",
    }  # fmt: skip
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in tag.label_zh) for tag in TAGS)


def test_interests_of_the_first_level_are_the_thirty_seven_verticals():
    assert tuple(range(1001, 1038)) == INTERESTS


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("\uff34ravel", "interest.travel"),
        ("兴趣/旅游", "interest.travel"),
        ("购买意向/新车", "intent.automotive.new_car"),
        ("Life-cycle/lost", "lifecycle.lost"),
        ("Device/iPhone", "device.brand.apple"),
        ("Family Travel", "interest.travel.family"),
        ("women", "demographic.gender.female"),
        ("online", None),
        ("lost", None),
        ("Interest", None),
        ("demographic.gender", None),
    ],
)
def test_facets_and_widths_lead_to_a_tag_and_a_bare_word_of_the_deeper_tree_does_not(label, name):
    found = find(label)
    assert (None if found is None else tag_name(found)) == name


def test_the_own_labels_of_every_tag_find_it_within_its_facet():
    for tag in TAGS:
        for label in taxonomy.labels_of(tag):
            assert find(f"{taxonomy.facet_of(tag)}/{label}") == tag.id, (tag.name, label)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownTag, match=r"interest\.travel"):
        tag_id("interest.travle")
    with pytest.raises(UnknownTag, match="taxonomy"):
        tag_id("qqqqqqqq")


def test_a_tag_of_a_newer_release_still_has_a_name_to_print():
    assert tag_name(4_000_000_000) == "tag#4000000000"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("travel", "interest.travel"),
        ("  TRAVEL ", "interest.travel"),
        ("Style & Fashion", "interest.fashion"),
        ("real-estate", "interest.real_estate"),
        ("Real Estate", "interest.real_estate"),
        ("汽车", "interest.automotive"),
        ("interest.food", "interest.food"),
        ("Long-term interest/travel", "interest.travel"),
        ("In-market/3C Product", "intent.electronics"),
        ("In-market/Home/Furniture", "intent.home"),
        ("Demographic/gender/famale", "demographic.gender.female"),
        ("female", "demographic.gender.female"),
        ("zorbing", None),
        ("", None),
        ("/", None),
        ("In-market/", None),
        ("nonsense/travel", None),
    ],
)
def test_a_free_label_finds_its_tag(label, name):
    found = find(label)
    assert (None if found is None else tag_name(found)) == name


def test_every_own_label_finds_the_tag_it_stands_on():
    for tag in TAGS:
        if tag.parent == "interest":
            assert find(tag.label_en) == find(tag.label_zh) == find(tag.name) == tag.id
            assert all(find(alias) == tag.id for alias in tag.aliases), tag.name


def test_content_ids_are_ids_of_the_iab_taxonomy(shared):
    path = shared / "taxonomy" / "content_taxonomies" / "content_taxonomy_1.0.tsv"
    with path.open(encoding="utf-8") as file:
        known = {row[0]: row[2] for row in csv.reader(file, delimiter="\t") if len(row) > 2}
    for tag in TAGS:
        assert not tag.iab_content or tag.iab_content in known, tag.name
    named = {
        "arts": "Fine Art", "fitness": "Exercise", "diy": "Home Repair", "outdoors": "Camping", "fashion": "Fashion",
        "electronics": "Cell Phones", "astrology": "Astrology", "pets": "Pets", "books": "Books & Literature",
    }  # fmt: skip
    for vertical, name in named.items():
        assert known[BY_NAME[f"interest.{vertical}"].iab_content] == name


def test_no_alias_is_claimed_by_two_interests():
    claims = {}
    for tag in TAGS:
        if tag.parent == "interest":
            for label in (tag.label_en, tag.label_zh, *tag.aliases):
                assert claims.setdefault(taxonomy.normal(label), tag.name) == tag.name


def test_audience_ids_are_ids_of_the_iab_taxonomy_under_the_same_facet(shared):
    path = shared / "taxonomy" / "audience_taxonomies" / "audience_taxonomy_1.1.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        known = {row[1].strip(): [cell.strip(" *") for cell in row[4:10] if cell.strip()] for row in rows}
    roots = {"interest": "Interest", "intent": "Purchase Intent", "demographic": "Demographic"}
    for tag in TAGS:
        if tag.iab_audience:
            path_of = known[tag.iab_audience]
            assert path_of[0] == roots.get(taxonomy.facet_of(tag), path_of[0]), tag.name
    named = {
        "interest.travel": "Travel", "interest.pets.dogs": "Dogs", "interest.gaming.esports": "eSports",
        "intent.finance.mortgage": "Mortgage Lenders and Brokers", "demographic.marital.married": "Married",
        "intent.automotive.new_car": "New Vehicles", "interest.real_estate.renting": "Real Estate Renting and Leasing",
        "demographic.work.retired": "Retired", "intent.technology.phone_plan": "Mobile Phone Plans",
    }  # fmt: skip
    for name, last in named.items():
        assert known[BY_NAME[name].iab_audience][-1] == last


def test_most_user_tags_of_the_ipinyou_log_have_an_alias(shared):
    path = shared / "data" / "ipinyou_log" / "user_profile_tags.parquet"
    if not path.exists():
        pytest.skip("needs ../shared/data/ipinyou_log")
    names = pq.read_table(path)["name"].to_pylist()
    assert len(names) >= 40
    assert sum(find(name) is not None for name in names) >= 0.9 * len(names)

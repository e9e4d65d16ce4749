import pytest

from dmp import mapping
from dmp.errors import ConfigError
from dmp.mapping import Field, IdColumn, Mapping, TimeColumn

SMALLEST = """
source = "shop"
id = [{column = "user", type = "cookie"}]
time = {column = "at"}
kind = {value = "view"}
consent = {value = 7}
"""


def test_the_smallest_mapping_says_who_when_what_and_with_which_consent():
    assert mapping.parse(SMALLEST, "m") == Mapping(
        source="shop",
        id=(IdColumn("user", "cookie"),),
        time=TimeColumn("at"),
        kind=Field(value="view"),
        consent=Field(value=7),
    )


def test_consent_is_never_assumed():
    with pytest.raises(ConfigError, match="consent is missing"):
        mapping.parse(SMALLEST.replace("consent = {value = 7}", ""), "m")


def test_all_problems_of_types_are_told_at_once_with_the_nearest_key():
    with pytest.raises(ConfigError) as told:
        mapping.parse(SMALLEST.replace('"cookie"', '"shoe"') + 'categry = {column = "c"}\n', "m")
    assert [problem.split(";")[-1].strip()[:22] for problem in told.value.problems] == [
        "id: Invalid enum value",
        "did you mean 'category",
    ]


def test_all_problems_of_meaning_are_told_at_once():
    text = (
        SMALLEST.replace('"view"', '"glance"')
        .replace("value = 7", "value = 8")
        .replace('{column = "at"}', '{column = "at", zone = "Mars/Base", format = "tomorrow"}')
    )
    with pytest.raises(ConfigError) as told:
        mapping.parse(text + 'category = {column = "c", value = "x"}\nexplode_separator = ","\n', "m")
    assert [problem.split(":")[0] for problem in told.value.problems] == [
        "time.zone",
        "time.format",
        "category",
        "kind",
        "consent",
        "explode_separator",
    ]


@pytest.mark.rule("P-60")
def test_a_column_of_ids_can_be_nothing_else():
    with pytest.raises(ConfigError, match="'user' holds ids"):
        mapping.parse(SMALLEST + 'category = {column = "user"}\n', "m")


def test_columns_are_read_once_each_ids_first():
    found = mapping.parse(SMALLEST + 'category = {column = "topic"}\nsite = {column = "topic"}\n', "m")
    assert mapping.columns(found) == ("user", "at", "topic")


@pytest.mark.parametrize("name", mapping.PRESETS)
def test_presets_are_mappings(name):
    assert mapping.load(name).source == name


def test_a_mapping_that_is_not_there_names_the_presets():
    with pytest.raises(ConfigError, match="presets: ipinyou, clickstream"):
        mapping.load("/nowhere/mapping.toml")


def test_the_signature_moves_with_the_meaning_only():
    one = mapping.parse(SMALLEST, "m")
    assert mapping.signature(one) == mapping.signature(mapping.parse("# why\n" + SMALLEST, "elsewhere"))
    assert mapping.signature(one) != mapping.signature(mapping.parse(SMALLEST.replace("shop", "app"), "m"))


def test_the_signature_of_a_mapping_is_what_the_first_release_gave_it():
    assert mapping.signature(mapping.parse(SMALLEST, "m")) == "68f30ee8f17f6b67"
    assert mapping.signature(mapping.parse(SMALLEST + 'item = {column = "i"}', "m")) != "68f30ee8f17f6b67"


@pytest.mark.rule("P-60")
def test_a_column_kept_as_a_mark_can_be_nothing_else():
    with pytest.raises(ConfigError, match="'ip' holds ids"):
        mapping.parse(SMALLEST + 'ip = {column = "ip"}\nregion = {column = "ip"}\n', "m")


@pytest.mark.parametrize("needed", ["user", "at"])
def test_ids_and_times_are_never_optional(needed):
    with pytest.raises(ConfigError, match=f"optional: '{needed}' must be there"):
        mapping.parse(SMALLEST + f'optional = ["{needed}"]', "m")


def test_places_are_kept_to_two_decimals_at_most():
    with pytest.raises(ConfigError, match="place"):
        mapping.parse(SMALLEST + 'place = {lat = "y", lon = "x", decimals = 3}', "m")

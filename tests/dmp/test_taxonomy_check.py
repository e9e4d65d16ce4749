import pytest

from dmp import taxonomy
from dmp.taxonomy_check import COLUMNS, problems

GOOD = {
    "id": "1", "name": "a", "parent": "", "kind": "root", "half_life_days": "0", "ttl_days": "9", "sensitive": "0",
    "label_en": "A", "label_zh": "甲", "iab_content": "", "iab_audience": "", "aliases": "", "exclusive": "",
}  # fmt: skip


def a_file(*changes):
    """A root "a" and, per change, one fact under it that differs by what the change says."""
    lines = [",".join(COLUMNS), ",".join(GOOD[column] for column in COLUMNS)]
    for n, change in enumerate(changes, 2):
        leaf = {**GOOD, "id": str(n), "name": f"a.t{n}", "parent": "a", "kind": "fact", "label_en": f"L{n}"}
        leaf = {**leaf, "label_zh": f"乙{n}", **change}
        lines.append(",".join(leaf[column] for column in COLUMNS))
    return "\n".join(lines) + "\n"


def test_the_packaged_taxonomy_has_no_problem():
    assert problems(taxonomy.packaged()) == []


def test_a_small_sound_file_has_no_problem():
    assert problems(a_file({"exclusive": "g"}, {"exclusive": "g", "iab_content": "IAB20-3"}), published=()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([{"id": "1"}], "id 1 is taken by a"),
        ([{"id": "0"}], "not within 1"),
        ([{"id": "x"}], "no whole number"),
        ([{"name": "a.B"}], "no dotted path"),
        ([{"name": "a.t"}, {"name": "a.t"}], "there twice"),
        ([{"name": "b.t"}], "must be its parent's name"),
        ([{"parent": "z", "name": "z.t"}], "parent z does not exist"),
        ([{"parent": "a.t3", "name": "a.t3.x"}, {}], "must stand above it"),
        ([{"name": "x", "parent": "y"}, {"name": "y", "parent": "x"}], "cycle"),
        ([{"kind": "flag"}], "kind 'flag'"),
        ([{"kind": "root"}], "kind root"),
        ([{"ttl_days": "0"}], "ttl_days"),
        ([{"sensitive": "yes"}], "neither 0 nor 1"),
        ([{"sensitive": "1"}, {"parent": "a.t2", "name": "a.t2.x"}], "must be sensitive"),
        ([{"label_zh": ""}], "label_zh is missing"),
        ([{"iab_content": "IAB20-"}], "iab_content"),
        ([{"iab_content": "20"}], "iab_content"),
        ([{"iab_audience": "IAB1"}], "iab_audience"),
        ([{"exclusive": "g"}], "has only a.t2"),
        ([{"exclusive": "g"}, {"exclusive": "g", "kind": "score"}], "differ in parent or kind"),
        ([{"exclusive": "g", "kind": "group"}, {"exclusive": "g", "kind": "group"}], "no tags of users"),
        ([{"aliases": "x"}, {"aliases": "X!"}], "claimed by a.t2"),
        ([{"aliases": "?!"}], "empty once punctuation"),
        ([{"aliases": "x,y,z"}], "must have 13 fields"),
    ],
)
def test_each_broken_rule_is_told(changes, told):
    assert any(told in problem for problem in problems(a_file(*changes), published=())), told


def test_other_columns_are_refused_at_once():
    assert len(problems("id,name\n1,a\n")) == len(problems("")) == 1


def test_a_published_id_may_neither_go_nor_change_its_name():
    text = a_file({})
    renamed = text.replace("a.t2", "a.t9")
    assert problems(renamed, published=taxonomy.parse(text)) == [
        "a.t2: published as id 2, which is now a.t9; ids are for ever"
    ]
    assert "now gone" in problems(a_file(), published=taxonomy.parse(text))[0]

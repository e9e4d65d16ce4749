import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import taxonomy
from dmp.expression import And, BadExpression, Everybody, HasTag, Member, Not, Or, Scored, Seen, audiences_in, parse

TRAVEL, LOST, AUTO = (taxonomy.tag_id(name) for name in ("interest.travel", "lifecycle.lost", "interest.automotive"))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("interest.travel", HasTag((TRAVEL,))),
        ("interest.travel >= 60", Scored((TRAVEL,), ">=", 60)),
        ("interest.travel==0", Scored((TRAVEL,), "=", 0)),
        ("interest.travel!=100", Scored((TRAVEL,), "!=", 100)),
        ("seen < 7d", Seen("<", 7)),
        ("seen >= 2w", Seen(">=", 14)),
        ("audience:acme/buyers", Member("acme", "buyers")),
        ("ALL", Everybody()),
        ("not all", Not(Everybody())),
        (
            "interest.travel >= 60 AND NOT lifecycle.lost AND seen < 7d",
            And((Scored((TRAVEL,), ">=", 60), Not(HasTag((LOST,))), Seen("<", 7))),
        ),
        # NOT before AND before OR, unless parentheses say otherwise
        (
            "interest.travel or not lifecycle.lost and interest.automotive",
            Or((HasTag((TRAVEL,)), And((Not(HasTag((LOST,))), HasTag((AUTO,)))))),
        ),
        (
            "(interest.travel OR lifecycle.lost) AND interest.automotive",
            And((Or((HasTag((TRAVEL,)), HasTag((LOST,)))), HasTag((AUTO,)))),
        ),
    ],
)
def test_an_expression_means(text, tree):
    assert parse(text) == tree


def test_a_group_means_any_tag_under_it_that_is_not_sensitive():
    stages = [tag for tag in taxonomy.TAGS if tag.parent == "lifecycle"]
    assert parse("lifecycle") == HasTag(tuple(tag.id for tag in stages))
    meant = parse("interest")
    assert isinstance(meant, HasTag)
    assert not any(taxonomy.BY_ID[tag].sensitive for tag in meant.tags)


def test_every_tag_can_be_typed():
    for tag in taxonomy.TAGS:
        assert tag.sensitive or isinstance(parse(tag.name), HasTag)


def test_a_sensitive_tag_makes_no_audience():
    sensitive = next(tag.name for tag in taxonomy.TAGS if tag.sensitive and tag.kind not in ("root", "group"))
    with pytest.raises(BadExpression, match="sensitive"):
        parse(sensitive)


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        ("", 0, "expected"),
        ("interest.travle >= 60", 0, "did you mean interest.travel"),
        ("interest.travel >= 600", 19, "0 to 100"),
        ("interest.travel >= -1", 19, "0 to 100"),
        ("interest.travel >= 6.5", 19, "0 to 100"),
        ("interest.travel >=", 18, "0 to 100"),
        ("interest.travel 60", 16, "AND or OR is missing"),
        ("interest.travel AND", 19, "expected"),
        ("(interest.travel", 16, "closing parenthesis"),
        ("interest.travel)", 15, "never opened"),
        ("seen", 0, "how long ago"),
        ("seen < 7", 7, "days or weeks"),
        ("seen < 7h", 7, "days or weeks"),
        ("audience:acme", 0, "audience:<advertiser>/<name>"),
        ("interest.travel & lifecycle.lost", 16, "means nothing here"),
        ("all and 你好", 8, "no tag is named"),
    ],
)
def test_a_wrong_expression_is_told_with_a_caret_under_the_place(text, place, told):
    with pytest.raises(BadExpression, match=told) as error:
        parse(text)
    assert error.value.place == place
    _, shown, caret = str(error.value).split("\n")
    assert shown == f"  {text}"
    assert caret == " " * (place + 2) + "^"


@pytest.mark.parametrize("text", ["(" * 100_000, "not " * 500 + "all", " or ".join(["all"] * 300), "all " * 2_000])
def test_an_expression_beyond_any_use_is_refused(text):
    with pytest.raises(BadExpression):
        parse(text)


words = st.sampled_from(["interest.travel", ">=", "<", "60", "7d", "seen", "AND", "or", "NOT", "(", ")", "all", "x:/"])


@given(st.one_of(st.text(max_size=60), st.lists(words, max_size=12).map(" ".join)))
def test_any_text_is_an_expression_or_is_told_where_it_is_none(text):
    place = 0
    try:
        parse(text)
    except BadExpression as error:
        place = error.place
    assert 0 <= place <= len(text)


def test_the_audiences_of_an_expression():
    found = audiences_in(parse("NOT audience:a/b AND (audience:c/d OR all)"))
    assert list(found) == [Member("a", "b"), Member("c", "d")]

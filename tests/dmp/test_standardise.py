import json
import multiprocessing

import pyarrow.parquet as pq
import pytest

from dmp import standardise, taxonomy
from dmp.decisions import BadDecisions, read, record, replay
from dmp.errors import DmpError
from dmp.standardise import pending, read_labels, resolver, standard, suggest
from dmp.taxonomy import find, tag_id


@pytest.fixture
def log(tmp_path):
    return tmp_path / "taxonomy" / "decisions.jsonl"


@pytest.mark.parametrize(
    ("label", "tag", "how"),
    [
        ("travel", "interest.travel", "alias"),
        ("TRAVEL!", "interest.travel", "alias"),
        ("汽车", "interest.automotive", "alias"),
        ("新客", "lifecycle.new", "alias"),
        ("\uff29\uff30hone", "device.brand.apple", "alias"),
        ("cruise ships", "interest.travel.cruises", "normalised"),
        ("In-market/mortgages", "intent.finance.mortgage", "normalised"),
        ("hobbies", "interest.hobbies", "alias"),
        ("birthday boxes", None, ""),
    ],
)
def test_a_label_maps_by_alias_then_in_its_normal_form(label, tag, how):
    answer = standard(label, 1, {})
    assert (answer.tag or None, answer.how) == (tag, how)
    assert answer.status == ("mapped" if tag else answer.status)


@pytest.mark.parametrize(
    ("plural", "single"),
    [
        ("cars", "car"),
        ("hobbies", "hobby"),
        ("watches", "watch"),
        ("boxes", "box"),
        ("glass", "glass"),
        ("news", "news"),
    ],
)
def test_plurals_are_the_simple_english_ones(plural, single):
    assert standardise.singular(plural) == single


def test_what_two_tags_could_mean_is_left_to_a_person():
    """A device can be due for replacement, and so can what a contract is about."""
    answer = standard("replacement due", 1, {})
    assert answer.status == "suggested"
    assert {"device.age.old", "contract.replacement_due"} <= {s.tag for s in answer.suggestions}


@pytest.mark.parametrize(
    ("label", "tag"),
    [
        ("automobil", "interest.automotive"),
        ("tecnology", "interest.technology"),
        ("汽车用品店", "interest.automotive.parts"),
        ("出境旅游", "interest.travel.overseas"),
        ("In-market/mortage", "intent.finance.mortgage"),
        ("dog owners", "interest.pets"),
        ("vegan recipes", "interest.food.vegetarian"),
    ],
)
def test_a_near_label_is_suggested_and_not_mapped(label, tag):
    answer = standard(label, 1, {})
    assert answer.status == "suggested"
    assert answer.tag == ""
    assert tag in [suggestion.tag for suggestion in answer.suggestions]
    assert all(0 < suggestion.score <= 1 for suggestion in answer.suggestions)


def test_a_label_like_nothing_has_no_suggestion():
    for label in ("qxzvwk", "", "/", "!!!"):
        answer = standard(label, 1, {})
        assert (answer.status, answer.suggestions) == ("unknown", ())


def test_suggestions_stay_within_a_stated_facet_and_come_best_first():
    found = suggest("In-market/electric vehicl")
    assert found
    assert all(suggestion.tag.startswith("intent.") for suggestion in found)
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)


def test_a_typing_error_in_a_label_still_brings_its_tag_among_three():
    """Every English label of seven letters or more with one letter lost in the middle."""
    asked = hit = 0
    for tag in taxonomy.TAGS:
        word = tag.label_en
        if tag.kind in ("root", "group") or len(word) < 7:
            continue
        asked += 1
        hit += tag.name in [s.tag for s in suggest(f"{taxonomy.facet_of(tag)}/{word[:3]}{word[4:]}")]
    assert hit >= 0.9 * asked


@pytest.mark.parametrize("label", ["medicine", "In-market/medicine", "宗教", "medicines", "Long-term interest/sex"])
def test_a_sensitive_tag_is_never_accepted_without_a_person(label):
    answer = standard(label, 1, {})
    assert (answer.status, answer.tag) == ("suggested", "")
    assert answer.suggestions[0].sensitive


def test_no_label_of_a_sensitive_tag_is_mapped_by_itself():
    for tag in taxonomy.TAGS:
        for label in taxonomy.labels_of(tag) if tag.sensitive else ():
            for text in (label, f"{taxonomy.facet_of(tag)}/{label}", label.upper(), f"{label}s"):
                mapped = standard(text, 1, {}).tag
                assert not mapped or not taxonomy.BY_NAME[mapped].sensitive, text


def test_a_person_may_accept_a_sensitive_tag_only_by_saying_so(log):
    with pytest.raises(DmpError, match="sensitive"):
        record(log, "accept", "zen retreat", "interest.religion", "ann", 1)
    with pytest.raises(DmpError, match="sensitive"):
        record(log, "accept", "medicine", "interest.food", "ann", 1)  # its own meaning is sensitive
    record(log, "accept", "zen retreat", "interest.religion", "ann", 1, sensitive=True)
    assert standard("zen retreat", 1, replay(read(log))).tag == "interest.religion"


def test_decisions_are_numbered_dated_signed_and_replayed_in_order(log):
    record(log, "accept", "Zorbing", "interest.outdoors", "ann", 10)
    record(log, "reject", "asdf", "", "bob", 20)
    record(log, "accept", "zorbing!", "interest.sports", "bob", 30)
    decisions = read(log)
    assert [(d.version, d.at_us, d.who, d.action) for d in decisions] == [
        (1, 10, "ann", "accept"), (2, 20, "bob", "reject"), (3, 30, "bob", "accept"),
    ]  # fmt: skip
    assert standard("ZORBING", 1, replay(decisions)).tag == "interest.sports"
    assert standard("ZORBING", 1, replay(read(log, version=2))).tag == "interest.outdoors"
    assert standard("zorbing", 1, replay(read(log, version=0))).status != "mapped"
    assert standard("asdf", 1, replay(decisions)).status == "rejected"
    assert log.stat().st_mode & 0o777 == 0o600


def test_what_was_written_stays_as_it_was_and_is_plain_json_lines(log):
    record(log, "accept", "蹦极", "interest.outdoors", "ann", 10)
    first = log.read_bytes()
    record(log, "reject", "x", "", "ann", 11)
    assert log.read_bytes().startswith(first)
    assert json.loads(first) == {
        "version": 1, "at_us": 10, "who": "ann", "action": "accept", "label": "蹦极", "tag": "interest.outdoors",
    }  # fmt: skip


def test_a_rejected_label_means_no_tag_even_where_an_alias_would(log):
    assert resolver({})("service") == tag_id("interest.business")
    record(log, "reject", "Service", "", "ann", 1)
    assert resolver(replay(read(log)))("service") is None
    assert standard("service", 1, replay(read(log))).status == "rejected"


def test_the_resolver_of_a_build_knows_aliases_normal_forms_and_decisions(log):
    record(log, "accept", "zorbing", "interest.outdoors", "ann", 1)
    resolve = resolver(replay(read(log)))
    assert resolve("travel") == find("travel")
    assert resolve("cruise ships") == tag_id("interest.travel.cruises")
    assert resolve("Zorbing") == tag_id("interest.outdoors")
    assert resolve("automobil") is None
    assert resolve("e-mail channel") is None  # a page's subject is no channel its reader prefers


@pytest.mark.parametrize(
    ("action", "label", "tag", "who", "told"),
    [
        ("accept", "x", "interest.nothing", "ann", "no tag"),
        ("accept", "x", "interest", "ann", "no user has it"),
        ("accept", "!!", "interest.food", "ann", "no letter"),
        ("accept", "x", "interest.food", " ", "who"),
        ("reject", "x" * 300, "", "ann", "longer than"),
    ],
)
def test_a_decision_that_cannot_hold_is_refused_and_not_written(log, action, label, tag, who, told):
    with pytest.raises(DmpError, match=told):
        record(log, action, label, tag, who, 1)
    assert not log.exists()


def test_a_line_torn_by_a_crash_is_no_decision_and_the_next_one_takes_its_place(log):
    record(log, "accept", "zorbing", "interest.outdoors", "ann", 1)
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"version":2,"at_us":5,"wh')
    assert len(read(log)) == 1
    record(log, "reject", "asdf", "", "ann", 2)
    assert [d.version for d in read(log)] == [1, 2]
    assert log.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines],
        lambda lines: [b"{}\n", *lines[1:]],
        lambda lines: [lines[0].replace(b"interest.outdoors", b"interest.zzz"), *lines[1:]],
        lambda lines: [lines[0].replace(b'"accept"', b'"maybe"'), *lines[1:]],
    ],
)
def test_a_damaged_log_is_refused_with_its_line(log, damage):
    record(log, "accept", "zorbing", "interest.outdoors", "ann", 1)
    record(log, "reject", "asdf", "", "ann", 2)
    log.write_bytes(b"".join(damage(log.read_bytes().splitlines(keepends=True))))
    with pytest.raises(BadDecisions, match=r"line \d"):
        read(log)


def decide_some(log, who):
    for n in range(20):
        record(log, "reject", f"{who} {n}", "", who, n)


def test_decisions_of_several_people_at_once_are_all_kept(log):
    context = multiprocessing.get_context("fork")
    people = [context.Process(target=decide_some, args=(log, who)) for who in ("ann", "bob", "cy")]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert [d.version for d in read(log)] == list(range(1, 61))
    assert len(replay(read(log))) == 60


def test_labels_are_read_with_their_counts_and_copies_add_up(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_bytes("\ufefflabel,count\ntravel,3\n汽车,1\ntravel,2\n".encode())
    assert read_labels(file) == {"travel": 5, "汽车": 1}
    file.write_text("name,label\n1,travel\n2,travel\n")
    assert read_labels(file) == {"travel": 2}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name\nx\n", "column label"),
        (b"", "column label"),
        (b"label,count\nx,many\n", "line 2"),
        (b"label,count\nx,-1\n", "line 2"),
        (b"label,count\nx\n", "line 2"),
        (b"label\n\xff\xfe\n", "UTF-8"),
    ],
)
def test_a_labels_file_that_cannot_be_read_is_told(tmp_path, content, told):
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(DmpError, match=told):
        read_labels(file)


def test_the_queue_holds_what_waits_the_most_frequent_first_until_it_is_decided(tmp_path, log):
    queue = tmp_path / "taxonomy" / "queue.json"
    labels = {"travel": 9, "automobil": 2, "medicine": 5, "qxzvwk": 3}
    standardise.enqueue(queue, [standard(label, count, {}) for label, count in labels.items()])
    assert [(a.label, a.count) for a in pending(queue, {})] == [("medicine", 5), ("qxzvwk", 3), ("automobil", 2)]
    standardise.enqueue(queue, [standard("automobil", 7, {})])  # the same label again: its newest count
    record(log, "reject", "qxzvwk", "", "ann", 1)
    assert [(a.label, a.count) for a in pending(queue, replay(read(log)))] == [("automobil", 7), ("medicine", 5)]


def test_user_tags_of_the_ipinyou_log_become_standard_tags(shared):
    path = shared / "data" / "ipinyou_log" / "user_profile_tags.parquet"
    if not path.exists():
        pytest.skip("needs ../shared/data/ipinyou_log")
    answers = [standard(name, 1, {}) for name in pq.read_table(path)["name"].to_pylist()]
    assert sum(answer.how == "alias" for answer in answers) >= 0.9 * len(answers)
    assert {answer.status for answer in answers} == {"mapped", "suggested"}
    waiting = {answer.label for answer in answers if answer.status == "suggested"}
    assert waiting == {
        "Long-term interest/health", "Long-term interest/sex", "In-market/medicine", "In-market/health care products",
    }  # fmt: skip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmp import audit
from dmp.audit import AuditBroken, Entry, entries, record

acts = st.lists(st.builds(Entry, st.integers(0, 9), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5)))


def a_log(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("audit")
    for entry in made:
        record(folder, entry)
    return folder, folder / "audit.jsonl"


@settings(deadline=None, max_examples=30)
@given(made=acts)
def test_a_log_that_nobody_touched_is_read_as_written(tmp_path_factory, made):
    folder, _ = a_log(tmp_path_factory, made)
    assert [(entry.at_us, entry.who, entry.what, entry.about) for entry in entries(folder)] == [
        (entry.at_us, entry.who, entry.what, entry.about) for entry in made
    ]


@pytest.mark.rule("S-28")
@settings(deadline=None, max_examples=60)
@given(data=st.data(), how=st.sampled_from(["change", "remove", "swap", "repeat", "cut"]))
def test_any_change_of_a_line_is_found(tmp_path_factory, data, how):
    folder, path = a_log(tmp_path_factory, [Entry(n, "ann", "forget", f"u{n}") for n in range(5)])
    lines = path.read_bytes().splitlines(keepends=True)
    place = data.draw(st.integers(0, 3))
    match how:
        case "change":
            lines[place] = lines[place].replace(b"ann", b"bob")
        case "remove":
            del lines[place]
        case "swap":
            lines[place], lines[place + 1] = lines[place + 1], lines[place]
        case "repeat":
            lines.insert(place, lines[place])
        case "cut":
            del lines[place:]
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditBroken):
        list(entries(folder))


def test_a_death_while_writing_loses_nothing_that_was_acknowledged(tmp_path):
    done = [record(tmp_path, Entry(1, "ann", "forget", "u1")), record(tmp_path, Entry(2, "ann", "forget", "u2"))]
    path = tmp_path / "audit.jsonl"
    (tmp_path / "audit.head").write_text(done[0].chain)  # it died between the line and the head
    with path.open("ab") as file:
        file.write(b'{"at_us":3,"who":')  # or within a line
    assert list(entries(tmp_path)) == done
    record(tmp_path, Entry(4, "ann", "export", "u1"))
    assert [entry.at_us for entry in entries(tmp_path)] == [1, 2, 4]


def test_an_empty_log_is_whole_and_a_lost_one_is_not(tmp_path):
    assert list(entries(tmp_path)) == []
    record(tmp_path, Entry(1, "ann", "forget", "u1"))
    record(tmp_path, Entry(2, "ann", "forget", "u2"))
    (tmp_path / "audit.jsonl").unlink()
    with pytest.raises(AuditBroken, match="missing"):
        list(entries(tmp_path))
    assert audit.START == "0" * 64

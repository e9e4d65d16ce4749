import gzip
import json

import numpy as np
import pytest

from loadtest import broken
from loadtest.broken import BadCorpus
from loadtest.load import Result


def a_corpus(tmp_path, *records):
    file = tmp_path / "invalid.jsonl.gz"
    with gzip.open(file, "wt") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)
    return file


def a_record(**changes):
    return {"class": "malformed", "reason": "cut off", "expect": "HTTP 400 with no body", "body": '{"id"'} | changes


def a_result(statuses, bodies=None):
    n = len(statuses)
    zeros = np.zeros(n, np.int64)
    return Result(zeros, zeros, zeros, np.array(statuses), zeros, zeros, bodies or {}, {}, 1, 1.0, 1.0, 0.1)


def test_every_answer_is_held_against_what_was_expected_of_its_fault(tmp_path):
    found = broken.read(a_corpus(tmp_path, a_record(), a_record(), a_record(**{"class": "hostile", "expect": "any"})))
    judged = broken.judge(found, a_result([400, 500, 204]))
    assert (judged.kinds["malformed"].requests, judged.kinds["malformed"].met) == (2, 1)
    assert judged.kinds["malformed"].statuses == {"400": 1, "500": 1}
    assert judged.kinds["hostile"].met == 1
    assert [violation.status for violation in judged.violations] == [500]


def test_silence_is_a_violation_whatever_was_expected(tmp_path):
    found = broken.read(a_corpus(tmp_path, a_record(expect="any valid answer; never 5xx")))
    judged = broken.judge(found, a_result([0]))
    assert judged.kinds["malformed"].statuses == {"none": 1}
    assert len(judged.violations) == 1


def test_a_body_is_sent_as_it_stands(tmp_path):
    (found,) = broken.read(a_corpus(tmp_path, a_record(body='{"id": "\ud800é"')))
    assert found.sent == b'{"id": "\xed\xa0\x80\xc3\xa9"'


def test_a_line_that_is_no_record_is_named(tmp_path):
    with pytest.raises(BadCorpus, match="line 2"):
        broken.read(a_corpus(tmp_path, a_record(), {"body": "x"}))

import json

import pytest
from rich.console import Console

from bidder.config import BidderConfig
from bidder.privacy import decide, policy
from dmp import tcf
from loadtest import micro_privacy
from loadtest.micro_privacy import VENDOR, requests_of, tc_string


@pytest.mark.rule("P-05")
def test_the_strings_are_sound_distinct_and_of_the_length_they_should_be():
    texts = [tc_string(seed) for seed in range(50)]
    assert len(set(texts)) == 50
    assert {len(text) for text in texts} == {300}
    settings = BidderConfig(gvl_id=VENDOR, tcf_consent=tuple(range(1, 12)))
    for text, request in zip(texts, requests_of(texts), strict=True):
        assert tcf.decode(text, VENDOR) is not None
        assert decide(request, policy(settings)).personalise, "a string that permits nothing costs less"


def test_the_figures_are_printed_and_written(tmp_path):
    made = micro_privacy.run(tmp_path / "p.json", strings=3, rounds=2, console=Console(quiet=True))
    told = json.loads((tmp_path / "p.json").read_text())
    assert set(told["figures"]) == {"a new TC string", "a remembered TC string", "no consent string"}
    assert all(figure["least"] <= figure["us"] <= figure["most"] for figure in told["figures"].values())
    assert micro_privacy.table(made).row_count == 3

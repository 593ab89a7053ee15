"""The description of a version: the card without its header, then the latest verdict, within the
limit.
"""

from __future__ import annotations

from isic.registry.description import from_card, with_gate
from isic.registry.gate import Check, Verdict

CARD = "---\nlicense: mit\n---\n# Model card\n\nNot a medical device.\n"


def verdict(passed: bool, champion: int | None = 1) -> Verdict:
    return Verdict(2, champion, (Check("pAUC gain", passed, "+0.001", "at least +0.000"),))


def test_the_header_stays_out_and_a_long_card_is_cut_at_a_line() -> None:
    assert from_card(CARD) == "# Model card\n\nNot a medical device."
    long = from_card(CARD + "- one more line of text\n" * 400)
    assert len(long) < 3_500
    assert long.split("\n\n… ")[0].endswith("- one more line of text")


def test_a_new_verdict_replaces_the_old_one() -> None:
    refused = with_gate(from_card(CARD), verdict(False).markdown())
    assert "**refused**, against version 1" in refused
    assert "| pAUC gain | **no** |" in refused
    passed = with_gate(refused, verdict(True, None).markdown())
    assert passed.count("## Gate") == 1
    assert "**passed**, no champion to beat" in passed
    assert "refused" not in passed
    assert passed.startswith("# Model card")


def test_a_version_without_a_card_still_gets_its_verdict_and_nothing_outgrows_the_store() -> None:
    assert with_gate("", verdict(True).markdown()).lstrip().startswith("## Gate")
    many = Verdict(2, 1, tuple(Check(f"check {i}", True, "x" * 100, "y" * 100) for i in range(30)))
    assert len(with_gate(from_card(CARD), many.markdown())) <= 5_000

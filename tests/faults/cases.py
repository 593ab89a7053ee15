"""Every case of the campaign, by kind of fault."""

from __future__ import annotations

from tests.faults import cases_bundle, cases_checkout, cases_files, cases_requests
from tests.faults.harness import Case


def all_cases() -> list[Case]:
    """All cases, in the order of the kinds."""
    tables = (cases_files, cases_bundle, cases_checkout, cases_requests)
    cases = [case for table in tables for case in table.cases()]
    return sorted(cases, key=lambda case: case.kind)

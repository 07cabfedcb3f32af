"""The rules of protection, case by case."""

from datetime import date

import pytest

from app.domain.protection import (
    CARE,
    CLIENT,
    CLINICIAN,
    PATIENT,
    RECORD,
    RIGHTS,
    SAFETY,
    SHARING,
    ConsentWithdrawn,
    GuardianNeeded,
    ProcessingRestricted,
    Retention,
    check_guardian,
    check_use,
    kept_until,
)


@pytest.mark.parametrize("use", [CARE, RECORD, SAFETY, RIGHTS, SHARING])
@pytest.mark.parametrize("by", [CLIENT, CLINICIAN, PATIENT])
@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("restricted", [True, False])
@pytest.mark.parametrize("emergency", [True, False])
@pytest.mark.parametrize("treatment", [True, False, None])
def test_every_combination_of_use_restriction_and_consent(use, by, writes, restricted, emergency, treatment):
    expected = None
    if restricted and not emergency and by != PATIENT and use != SAFETY and (use, by) != (RIGHTS, CLIENT):
        expected = ProcessingRestricted
    elif writes and treatment is False and use in {CARE, SHARING}:
        expected = ConsentWithdrawn
    try:
        check_use(use, by, writes=writes, restricted=restricted, emergency=emergency, treatment=treatment)
        raised = None
    except (ProcessingRestricted, ConsentWithdrawn) as refusal:
        raised = type(refusal)
    assert raised is expected


@pytest.mark.parametrize(
    ("given_by", "birth_year", "refused"),
    [("patient", 2011, True), ("patient", 2010, False), ("guardian", 2015, False), ("patient", None, False), ("patient", 1950, False)],
)
def test_a_guardian_decides_below_the_age_of_consent(given_by, birth_year, refused):
    try:
        check_guardian(given_by, birth_year, date(2026, 6, 1), 16)
        found = False
    except GuardianNeeded:
        found = True
    assert found is refused


@pytest.mark.parametrize(
    ("policy", "ended", "born", "last"),
    [
        (Retention(10, None, erase=False), date(2020, 5, 4), 1980, date(2030, 5, 4)),
        (Retention(1, None, erase=False), date(2024, 2, 29), 1980, date(2025, 3, 1)),
        (Retention(10, 28, erase=False), date(2020, 5, 4), 2010, date(2038, 12, 31)),
        (Retention(30, 28, erase=False), date(2020, 5, 4), 2010, date(2050, 5, 4)),
        (Retention(10, 28, erase=False), date(2020, 5, 4), None, date(2030, 5, 4)),
    ],
)
def test_records_are_kept_until_the_later_of_both_limits(policy, ended, born, last):
    assert kept_until(policy, ended, born) == last

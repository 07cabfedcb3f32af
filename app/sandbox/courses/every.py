"""The four courses after the founding description, by their codes."""

from app.sandbox.courses.autonomy import WIFE_WANTS_AUTONOMY
from app.sandbox.courses.deficits import CANNOT_FORM_RELATIONSHIPS
from app.sandbox.courses.grief import PROTRACTED_GRIEF
from app.sandbox.courses.retirement import RETIREMENT

COURSES = {c.code: c for c in (WIFE_WANTS_AUTONOMY, PROTRACTED_GRIEF, RETIREMENT, CANNOT_FORM_RELATIONSHIPS)}

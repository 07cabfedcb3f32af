"""Webhooks as rules: what an event is called, whom it is for, when it is tried again, when an endpoint is switched off."""

from collections.abc import Collection
from datetime import timedelta

from app.domain.errors import Conflict, Invalid

ENDPOINT_STATUSES = ("enabled", "paused", "disabled")
DISABLED_BECAUSE = ("failing", "gone")
DELIVERY_STATUSES = ("pending", "delivered", "dead")
VERBS = {"create": "created", "update": "updated", "delete": "deleted"}
PING = "ping"
URGENT_ENTITY = "risk_alert"
EVERY = "*"

GIVE_UP_AFTER = timedelta(hours=72)
DISABLE_AFTER = timedelta(hours=120)  # own design: two days after the first dead letters, so that somebody could read of them
STEPS = tuple(timedelta(seconds=s) for s in (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800))  # own design, doubling from seconds to hours
URGENT_STEPS = tuple(timedelta(seconds=s) for s in (2, 5, 10, 15, 20, 30))  # a risk alert is tried at least every 30 s in its first hour
URGENT_PHASE = timedelta(hours=1)
URGENT_AFTERWARDS = timedelta(minutes=5)
DISABLE_AFTER_FAILURES = 10  # and no success between: a receiver that was asked once in five days is not switched off
SLOW_DOWN_AFTER = timedelta(seconds=30)  # one event that a receiver does not like is no failing receiver


class EventTypeUnknown(Invalid):
    """This event type does not exist."""


class EndpointOff(Conflict):
    """The endpoint is paused or disabled: enable it first."""


def event_type(entity: str, op: str) -> str:
    """Return what a change is called on the wire: `relationship.updated`."""
    return f"{entity}.{VERBS[op]}"


def wants(event_types: Collection[str], name: str) -> bool:
    """Tell whether an endpoint with these types is told of an event: by name, by entity (`session.*`), or everything (`*`)."""
    return EVERY in event_types or name in event_types or f"{name.partition('.')[0]}.*" in event_types


def wait_before(attempts: int, *, urgent: bool, waited: timedelta, jitter: float) -> timedelta:
    """Return how long to wait after the given number of failed attempts; `jitter` from 0 to 1 spreads it over half to the whole step."""
    steps = URGENT_STEPS if urgent and waited < URGENT_PHASE else (URGENT_AFTERWARDS,) if urgent else STEPS
    return steps[min(attempts, len(steps)) - 1] * (0.5 + jitter / 2)

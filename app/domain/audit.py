"""The audit trail as rules: the one spelling of an event, the Merkle tree over events (RFC 6962), the chain of seals.

A partner can check all of it alone: it reads its events and its seals, makes the same hashes, and compares.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

EVENT_MEMBERS = (
    *("id", "at", "client_id", "person", "device_id", "action", "route", "outcome", "reason", "request_id"),
    *("patient_id", "patients", "episode_id", "break_glass_id", "resources"),
)
FIRST_PREVIOUS = bytes(32)
FORGED = -1  # stands in `sealed_by` of a row that the service did not write
_WORDS = {"create": "C", "read": "R", "update": "U", "delete": "D", "execute": "E"}
_INTERACTIONS = {"create": "create", "read": "read", "update": "update", "delete": "delete", "execute": "operation"}
CLIENT_ERROR, SERVER_ERROR = 400, 500


def event_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event in the spelling that is hashed: ids and moments as text, whole numbers, lists of text, null."""
    return {name: _plain(row.get(name)) for name in EVENT_MEMBERS}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if value is None or isinstance(value, (int, str)):
        return value
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else str(value)


def canonical(event: Mapping[str, Any]) -> bytes:
    """Return the bytes that are hashed: JSON with sorted members, no blanks, UTF-8 (RFC 8785 for values such as these)."""
    return json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def leaf_of(event: Mapping[str, Any]) -> bytes:
    """Return the hash of a leaf (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x00" + canonical(event)).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the hash of the tree over leaves in their order (RFC 6962, section 2.1)."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = list(leaves)
    while len(level) > 1:  # pairs from the left: what is left over moves up, which is the same tree
        paired = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def hash_of_seal(signature: str) -> bytes:
    """Return what the next seal names as its `previous`."""
    return hashlib.sha256(signature.encode("ascii")).digest()


def seal_claims(partner_id: object, number: int, leaves: Sequence[bytes], previous: bytes, sealed_at: datetime) -> dict[str, Any]:
    """Return what a seal says, and what is signed."""
    return {
        "partner": str(partner_id),
        "number": number,
        "count": len(leaves),
        "root": root_of(leaves).hex(),
        "previous": previous.hex(),
        "sealed_at": _plain(sealed_at),
    }


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong: at which seal, and what."""

    number: int
    what: str


def check_seal(said: Mapping[str, Any], seal: Mapping[str, Any], events: Iterable[Mapping[str, Any]], previous: bytes, number: int) -> Fault | None:
    """Hold one seal against its events. `said`: the claims that its signature covers. Returns what is wrong, or None."""
    leaves = [leaf_of({name: e[name] for name in EVENT_MEMBERS}) for e in sorted(events, key=lambda e: str(e["id"]))]
    if (said["number"], seal["number"]) != (number, number):
        return Fault(number, "a seal is missing, or stands in another's place")
    if said["previous"] != previous.hex():
        return Fault(number, "it does not follow the seal before it")
    if said["count"] != len(leaves):
        return Fault(number, f"it covers {said['count']} events and {len(leaves)} are there")
    if said["root"] != root_of(leaves).hex():
        return Fault(number, "an event under it was changed")
    return None


def as_fhir(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as an AuditEvent of FHIR R4, after the IHE Basic Audit Log Patterns."""
    outcome = event["outcome"]
    agents = [{"who": {"identifier": {"value": event["client_id"]}}, "requestor": event["person"] is None}]
    if event["person"] is not None:
        agents.append({"who": {"identifier": {"value": event["person"]}}, "requestor": True})
    entities: list[dict[str, Any]] = [{"what": {"identifier": {"value": r}}} for r in event["resources"]]
    if event["patient_id"] is not None:
        person = {"reference": f"Patient/{event['patient_id']}"}
        role = {"system": "http://terminology.hl7.org/CodeSystem/object-role", "code": "1", "display": "Patient"}
        kind = {"system": "http://terminology.hl7.org/CodeSystem/audit-entity-type", "code": "1", "display": "Person"}
        entities.insert(0, {"what": person, "type": kind, "role": role})
    found: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": event["id"],
        "type": {"system": "http://terminology.hl7.org/CodeSystem/audit-event-type", "code": "rest", "display": "RESTful Operation"},
        "subtype": [{"system": "http://hl7.org/fhir/restful-interaction", "code": _INTERACTIONS[event["action"]]}],
        "action": _WORDS[event["action"]],
        "recorded": event["at"],
        "outcome": "0" if outcome < CLIENT_ERROR else "4" if outcome < SERVER_ERROR else "8",
        "outcomeDesc": event["reason"] or str(outcome),
        "agent": agents,
        "source": {"observer": {"display": "IPT backend"}},
        "entity": [*entities, {"what": {"identifier": {"value": event["request_id"]}}, "name": event["route"]}],
    }
    if event["break_glass_id"] is not None:
        purpose = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "BTG", "display": "break the glass"}
        found["purposeOfEvent"] = [{"coding": [purpose]}]
    return found

"""The ledger of devices' mutations: what each became, so that one sent again is told apart. Its hashes and problems die with the patient's key."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from app.actions.mutation import Mutation, Result, named, rejected
from app.actions.visit import Visit
from app.domain.sync import MutationReused
from app.keys.cipher import PatientKey
from app.store.database import Row
from app.store.wrapping import ledger_place


def ledger_row(visit: Visit, device_id: UUID, result: Result) -> Row:
    """Return the row that remembers a mutation: what it became, and a hash of what it was, under the patient's key."""
    mutation, key = result.mutation, visit.patient_keys.get(result.patient_id) if result.patient_id else None
    problem = None if result.problem is None else _sealed(visit, key, mutation, result.problem)
    return {
        "device_id": device_id,
        "mutation_id": mutation.mutation_id,
        "patient_id": result.patient_id if key else None,
        "request_hash": _hash(visit, key, mutation),
        "outcome": result.status,
        "entity": named(mutation.entity),
        "entity_id": mutation.id,
        "conflict_id": result.conflict_id,
        "problem": problem,
        "occurred_at": mutation.occurred_at,
        "at": visit.now,
    }


def repeated_result(visit: Visit, mutation: Mutation, there: Row) -> Result:
    """Return what a mutation became when it came first; what was refused or kept is said again, never hidden as a duplicate."""
    key = None
    if there["patient_id"] is not None:
        key = visit.patient_keys.get(there["patient_id"])
        if key is None and there.get("wrapped") is None:
            return replace(rejected(mutation, MutationReused("What it changed was erased with its patient."), None), repeated=True)
        key = key or visit.key_of({**there, "id": there["patient_id"]})
    if there["request_hash"] != _hash(visit, key, mutation):
        return replace(rejected(mutation, MutationReused(), there["patient_id"]), repeated=True)
    status = "duplicate" if there["outcome"] in {"applied", "merged"} else str(there["outcome"])
    problem = None if there["problem"] is None else _opened(visit, key, mutation, there["problem"])
    visit.trace.of(there["patient_id"], f"{named(mutation.entity)}/{mutation.id}")
    return Result(mutation, status, None, problem, there["conflict_id"], there["patient_id"], repeated=True)


def _hash(visit: Visit, key: PatientKey | None, mutation: Mutation) -> bytes:
    """Hash a mutation under a key: a plain hash of a short questionnaire could be guessed."""
    return key.digest(mutation.content) if key else PatientKey(visit.caller.partner_id, visit.keys.derived("request hash")).digest(mutation.content)


def _place(mutation: Mutation, visit: Visit) -> str:
    return ledger_place(visit.caller.partner_id, visit.caller.device_id, mutation.mutation_id)


def _sealed(visit: Visit, key: PatientKey | None, mutation: Mutation, problem: dict[str, Any]) -> bytes:
    return key.seal(problem, _place(mutation, visit)) if key else visit.keys.seal(orjson.dumps(problem), _place(mutation, visit))


def _opened(visit: Visit, key: PatientKey | None, mutation: Mutation, blob: bytes) -> dict[str, Any]:
    return key.open(blob, _place(mutation, visit)) if key else dict(orjson.loads(visit.keys.open(blob, _place(mutation, visit))))

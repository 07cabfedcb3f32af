"""Push: what devices send, mutation by mutation."""

from dataclasses import replace
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from app.actions.mutation import Result, told
from app.actions.pushing import push, row_there
from app.api.mutations import read_mutation
from app.api.problems import every_problem, name_of, status_of
from app.api.request import Call, Route, needs
from app.api.routing import Router
from app.api.shapes import In, Moment, OneLine, Out, Whole
from app.domain.errors import Fault, Invalid, Refusal, escaped
from app.domain.sync import SCHEMA_VERSION, GroupRefused, MutationMalformed, check_schema

router = Router(prefix="/v1/sync", route_class=Route, tags=["sync"])

MOST_MUTATIONS = 100


_MOMENT: TypeAdapter[Any] = TypeAdapter(Moment)


def _lenient(value: object) -> object:
    """Read a device's time, which decides nothing: one that makes no sense is none."""
    try:
        return _MOMENT.validate_python(value)
    except ValidationError:
        return None


class MutationIn(In):
    """One change that was made on the device. One that cannot be read is rejected by itself; the others are taken."""

    model_config = ConfigDict(extra="ignore")

    mutation_id: UUID
    entity: str = Field(min_length=1, max_length=60, pattern=r"^[a-z_]+$", examples=["relationship"])
    id: UUID = Field(description="The row's id; for a create, made by the device (UUIDv7)")
    op: Literal["create", "update", "delete", "command"]
    base_version: Annotated[Whole, Field(ge=0, le=2_000_000_000)] | None = Field(None, description="The version that the device saw")
    fields: Annotated[dict[str, Any], Field(max_length=100)] = Field(
        {}, description="What changed; for a create with `episode_id`. Unknown fields are listed"
    )
    occurred_at: Annotated[Moment | None, BeforeValidator(_lenient)] = Field(
        None, description="The device's time; stored, never used to order or to merge"
    )
    group: OneLine | None = Field(
        None, max_length=60, description="Mutations that stand together with the same group are applied together, or not at all"
    )


class PushIn(In):
    """What a device sends."""

    client_id: UUID = Field(description="The device: as in the token")
    schema_version: Annotated[Whole, Field(ge=0, le=1_000_000)] = SCHEMA_VERSION
    mutations: Annotated[list[Annotated[MutationIn | dict[str, Any], Field(union_mode="left_to_right")]], Field(max_length=MOST_MUTATIONS)]


class MutationProblem(Out):
    """Why a mutation was not taken: a problem as HTTP would answer it."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
    unmet: list[dict[str, str]] = []


class MutationResult(Out):
    """What became of a mutation."""

    mutation_id: str = Field(description="As it was sent")
    entity: str
    id: str
    status: Literal["applied", "duplicate", "merged", "conflict", "rejected"]
    row: dict[str, Any] | None = Field(
        description="The row as the service has it now, also after a refusal: put it in the place of yours. null: there is none"
    )
    problem: MutationProblem | None
    conflict_id: UUID | None = Field(description="The kept edit, under /v1/sync/conflicts")
    repeated: bool = Field(description="This mutation came before: the answer is what it became then (applied and merged are called duplicate)")
    ignored: list[str] = Field(description="Fields that the service does not know")
    notice: dict[str, str] = Field(description="After answers to a risk item: what the person must read")


class Pushed(Out):
    """One result for each mutation, in their order."""

    results: list[MutationResult]
    schema_version: int
    server_time: Moment


def shown_result(result: Result) -> dict[str, Any]:
    """Return a result as it goes over the wire."""
    m = result.mutation
    return {
        "mutation_id": str(m.mutation_id),
        "entity": m.entity,
        "id": str(m.id),
        "status": result.status,
        "row": result.row,
        "problem": None if result.problem is None else shown_problem(result.problem),
        "conflict_id": result.conflict_id,
        "repeated": result.repeated,
        "ignored": list(m.ignored),
        "notice": dict(result.notice),
    }


def shown_problem(told: dict[str, Any]) -> dict[str, Any]:
    """Return a refusal as HTTP would answer it, its pointers from the mutation on."""
    kind = next((k for k in every_problem().values() if k.__name__ == told["name"]), Invalid)
    members = MutationIn.model_fields
    errors = [
        e if e["pointer"].split("/")[1:2] and e["pointer"].split("/")[1] in members else e | {"pointer": f"/fields{e['pointer']}"}
        for e in told["errors"]
    ]
    plain = {k: v for k, v in told.items() if k != "name"}
    return plain | {"errors": errors, "type": f"/problems/{name_of(kind)}", "status": status_of(kind())}


@router.post("/push", response_model=Pushed)
async def push_changes(call: Annotated[Call, needs("sync", patients=True)], push_in: PushIn) -> dict[str, Any]:
    """Send what was changed on a device: at most 100 mutations, applied in order, each once. Always 200 with one result for each.

    Every mutation goes through the same action as its HTTP route. A refused one says why and holds up no other. Edits of different
    fields merge; where two changed the same field, the service's value stays and the device's is kept as a conflict. After a lost
    answer or a 5xx send all of it again: what was applied is a `duplicate`.
    """
    check_schema(push_in.schema_version, reading=False)
    if call.visit.caller.device_id is not None and push_in.client_id != call.visit.caller.device_id:
        raise Invalid(faults=[Fault("/client_id", "is not the device that the token is bound to")])
    readable = [m for m in push_in.mutations if isinstance(m, MutationIn)]
    groups = [(m.group, m.mutation_id) for m in readable if m.group is not None]
    if len(set(groups)) != len(groups):
        raise Invalid(faults=[Fault("/mutations", "a mutation stands twice in one group")])
    broken = {str(m.get("group")) for m in push_in.mutations if isinstance(m, dict) and m.get("group") is not None}
    mutations = [
        read_mutation(m.mutation_id, m.entity, m.id, m.op, m.base_version, m.fields, occurred_at=m.occurred_at, group=m.group)
        for m in readable
        if m.group not in broken
    ]
    found = await push(call.visit, mutations)
    for number, result in enumerate(found):
        if result.row is None and result.mutation.op != "command":
            found[number] = replace(result, row=await row_there(call.visit, result.mutation.entity, result.mutation.id))
    results = iter(found)
    shown = [_unread(m) if isinstance(m, dict) else _not_taken(m) if m.group in broken else shown_result(next(results)) for m in push_in.mutations]
    return {"results": shown, "schema_version": SCHEMA_VERSION, "server_time": call.visit.now}


def _unread(sent: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a mutation that cannot be read: what is wrong with it, by pointers into it."""
    try:
        MutationIn.model_validate(sent)
    except ValidationError as error:
        faults = [Fault("".join(f"/{escaped(p)}" for p in e["loc"]), str(e["msg"])) for e in error.errors()[:20]]
    else:
        faults = []
    return _refused(sent, MutationMalformed(faults=faults))


def _not_taken(sent: MutationIn) -> dict[str, Any]:
    return _refused({"mutation_id": sent.mutation_id, "entity": sent.entity, "id": sent.id}, GroupRefused())


def _refused(sent: dict[str, Any], refusal: Refusal) -> dict[str, Any]:
    names = {name: str(sent.get(name) or "")[:60] for name in ("mutation_id", "entity", "id")}
    empty: dict[str, Any] = {"row": None, "conflict_id": None, "repeated": False, "ignored": [], "notice": {}}
    return names | empty | {"status": "rejected", "problem": shown_problem(told(refusal))}

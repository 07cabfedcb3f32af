"""Statements for the driver: written with SQLAlchemy Core, compiled to SQL, run by asyncpg.

What is asked all day is compiled once (`@prepared`): the function below the decorator builds the statement from parameters that are
`given` by name. Everything else is compiled when it is run. Both come out as the same thing: a text and its arguments in order.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect

Write = Callable[[Any], Any]


def dumped(value: Any) -> str:
    """Write a value as JSON for a column."""
    return orjson.dumps(value, default=str).decode()


DIALECT = asyncpg_dialect(json_serializer=dumped, json_deserializer=orjson.loads)  # type: ignore[no-untyped-call]


_COMES_LATER: Any = object()


def given(name: str, kind: Any) -> sa.BindParameter[Any]:
    """Stand for a value that comes with each run: a type, or the column whose type it has."""
    return sa.bindparam(name, _COMES_LATER, type_=kind.type if isinstance(kind, sa.ColumnElement) else kind)


def any_of(name: str, column: sa.ColumnElement[Any]) -> sa.CollectionAggregate[Any]:
    """Stand for a list of values of a column, one of which is to be equal: a list that is given whole keeps the text the same."""
    return sa.any_(given(name, ARRAY(column.type)))


class Confined(Protocol):
    """What a statement is written for: a connection, or EACH."""

    @property
    def partner_id(self) -> Any:
        """The partner's id, or what stands for it."""


class _Each:
    """Stands for whichever connection a prepared statement is run on: its partner is given by itself."""

    partner_id: sa.BindParameter[Any] = given("partner_id", sa.Uuid())


EACH = _Each()


class Compiled:
    """A text, the arguments that never change, and the places of those that are given by name."""

    __slots__ = ("_arguments", "_named", "_writes", "text")

    def __init__(self, statement: sa.ClauseElement, columns: Iterable[str] | None = None) -> None:
        keys = None if columns is None else list(columns)
        made: Any = statement.compile(dialect=DIALECT, column_keys=keys, compile_kwargs={"render_postcompile": True})
        order: list[str] = list(made.positiontup or ())
        values = dict(made.params)
        kinds = {name: bind.type.dialect_impl(DIALECT).bind_processor(DIALECT) for name, bind in made.binds.items()}
        late = {name for name, bind in made.binds.items() if bind.required or bind.value is _COMES_LATER}
        self.text: str = made.string
        self._arguments = [values.get(name) for name in order]
        self._named = tuple((place, name) for place, name in enumerate(order) if name in late)
        self._writes: tuple[tuple[int, Write], ...] = tuple((place, kinds[name]) for place, name in enumerate(order) if kinds.get(name) is not None)

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the arguments of one run. Raises KeyError when a value is not given."""
        found = self._arguments.copy()
        for place, name in self._named:
            found[place] = values[name]
        for place, write in self._writes:
            found[place] = write(found[place])
        return found


class Prepared:
    """A statement that is compiled at its first run, and never again."""

    __slots__ = ("_build", "_compiled")

    def __init__(self, build: Callable[[], sa.ClauseElement]) -> None:
        self._build = build
        self._compiled: Compiled | None = None

    @property
    def compiled(self) -> Compiled:
        """Return the statement as the driver takes it."""
        if self._compiled is None:
            self._compiled = Compiled(self._build())
        return self._compiled


def prepared(build: Callable[[], sa.ClauseElement]) -> Prepared:
    """Compile what a function builds once. What changes from run to run is `given`; the partner (EACH) is there by itself."""
    return Prepared(build)


Statement = sa.ClauseElement | Prepared


def compiled(statement: Statement) -> Compiled:
    """Return a statement as the driver takes it."""
    return statement.compiled if isinstance(statement, Prepared) else Compiled(statement)

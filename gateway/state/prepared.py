"""Statements that are put together once and run by the driver: to put one together costs more than to run it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ClauseElement, Connection
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError


class Prepared:
    """A statement whose parameters are plain texts and whole numbers; within the connection's transaction, as any other."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._made: dict[str, tuple[str, tuple[str, ...] | None, dict[str, Any]]] = {}

    def __call__(self, connection: Connection, **bound: str | int) -> list[tuple[Any, ...]]:
        """Its rows; `SQLAlchemyError` where the database fails, without what was asked for."""
        dialect = connection.dialect
        text, order, usual = self._made.get(dialect.name) or self._make(dialect)
        said = usual | bound
        cursor = connection.connection.cursor()
        try:
            cursor.execute(text, said if order is None else [said[name] for name in order])
            return list(cursor.fetchall()) if cursor.description else []
        except dialect.dbapi.Error as error:  # type: ignore[union-attr]  # every dialect that is connected has one
            raise DBAPIError(None, None, error, hide_parameters=True) from error
        finally:
            cursor.close()

    def _make(self, dialect: Dialect) -> tuple[str, tuple[str, ...] | None, dict[str, Any]]:
        compiled = self._statement.compile(dialect=dialect)
        order = compiled.positiontup if dialect.positional else None  # type: ignore[attr-defined]  # of every SQL compiler
        made = str(compiled), None if order is None else tuple(order), dict(compiled.params)
        self._made[dialect.name] = made
        return made

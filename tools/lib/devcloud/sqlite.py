"""Makes writers of an SQLite database wait for each other; imported into the servers of the services."""

# SQLAlchemy is there in the services' virtual environment only.
# mypy: disable-error-code="import-not-found, untyped-decorator"

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


@event.listens_for(Engine, "before_cursor_execute", retval=True)
def begin_as_writer(
    connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
) -> tuple[str, Any]:
    """Take the database's write lock with the transaction's BEGIN, where SQLite waits for it.

    A transaction that has read and then wants to write is refused at once, "database is locked",
    when another one wrote meanwhile: there is nothing to wait for.
    """
    if statement == "BEGIN" and connection.dialect.name == "sqlite":
        statement = "BEGIN IMMEDIATE"
    return statement, parameters

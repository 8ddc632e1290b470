"""Run by Alembic, on the connection and in the transaction of ``backends/sql/schema.py``."""

from __future__ import annotations

from alembic import context

from mm_metering.backends.sql.schema import VERSION_TABLE
from mm_metering.backends.sql.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # SQLite's DDL is, once the driver begins nothing by itself
)
context.run_migrations()

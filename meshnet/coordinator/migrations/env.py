"""Driver. Alembic's entry: run the migrations over the connection that `sql.migrate` hands in."""

from __future__ import annotations

from alembic import context

from meshnet.coordinator.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()

"""How Alembic reaches the store: always over the connection, and in the transaction, that `service.store.migrate` opened."""

from alembic import context

from service.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True, render_as_batch=True)
context.run_migrations()

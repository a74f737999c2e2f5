"""Driver. Numbered migrations of the store, run by Alembic when a coordinator starts."""

"""Sessions of browsers; and on PostgreSQL no samples of what people said in its statistics, where erasing would not reach them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

SAID = {
    "conversations": {"title": "TEXT"},
    "messages": {"parts": "TEXT"},
    "generations": {"record": "TEXT", "tokens": "BYTEA"},
    "blobs": {"content": "BYTEA"},
    "attachments": {"name": "TEXT", "rectangle": "TEXT"},
    "readings": {"reason": "TEXT", "content": "BYTEA"},
    "indexes": {"name": "TEXT", "error": "TEXT"},
    "index_documents": {"name": "TEXT", "error": "TEXT"},
    "feedback": {"value": "TEXT"},
    "search": {"text": "TEXT"},
}
"""The columns that hold words of people."""


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("proof", sa.String(length=64), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_sessions")),
    )
    op.create_index("ix_sessions_owner", "sessions", ["owner"], unique=False)
    if op.get_bind().dialect.name == "postgresql":
        for table, columns in SAID.items():
            for column, kind in columns.items():
                # Saying the type anew rewrites nothing, and forgets the samples that were taken before.
                op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind}, ALTER COLUMN {column} SET STATISTICS 0")

"""What was read of files that are no plain text, where a piece of a picture comes from, and indexes of documents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("attachments", sa.Column("origin", sa.String(length=24), nullable=True))
    op.add_column("attachments", sa.Column("rectangle", sa.Text(), nullable=True))
    op.create_table(
        "readings",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("reader", sa.Text(), nullable=False),
        sa.Column("characters", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_readings_sha256"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_readings")),
    )
    op.create_table(
        "indexes",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.Column("built", sa.String(length=64), nullable=True),
        sa.Column("passages", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_indexes")),
        sa.UniqueConstraint("owner", "name", name=op.f("uq_indexes_owner")),
    )
    op.create_table(
        "index_documents",
        sa.Column("index", sa.String(length=24), nullable=False),
        sa.Column("attachment", sa.String(length=24), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("passages", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["attachment"], ["attachments.id"], name=op.f("fk_index_documents_attachment")),
        sa.ForeignKeyConstraint(["index"], ["indexes.id"], name=op.f("fk_index_documents_index"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("index", "attachment", name=op.f("pk_index_documents")),
        sa.UniqueConstraint("index", "name", name=op.f("uq_index_documents_index")),
    )
    op.create_index("ix_index_documents_attachment", "index_documents", ["attachment"], unique=False)

"""The first tables: conversations, messages, generations, operations, attachments, feedback, search."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(length=100), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("head", sa.String(length=24), nullable=True),
        sa.Column("consent", sa.Boolean(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversations")),
    )
    op.create_index("ix_conversations_owner", "conversations", ["owner", "updated"], unique=False)
    op.create_table(
        "attachments",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_attachments_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attachments")),
    )
    op.create_index("ix_attachments_owner", "attachments", ["owner"], unique=False)
    op.create_index("ix_attachments_sha256", "attachments", ["sha256"], unique=False)
    op.create_table(
        "messages",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("conversation", sa.String(length=24), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent", sa.String(length=24), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("parts", sa.Text(), nullable=False),
        sa.Column("edited_from", sa.String(length=24), nullable=True),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("erased", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("role IN ('system', 'user', 'assistant')", name=op.f("ck_messages_role")),
        sa.ForeignKeyConstraint(["conversation"], ["conversations.id"], name=op.f("fk_messages_conversation"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint("conversation", "number", name=op.f("uq_messages_conversation")),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("conversation", sa.String(length=24), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("about", sa.String(length=24), nullable=False),
        sa.Column("before", sa.Boolean(), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("undone", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["conversation"], ["conversations.id"], name=op.f("fk_operations_conversation"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    op.create_index("ix_operations_conversation", "operations", ["conversation"], unique=False)
    op.create_table(
        "search",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("about", sa.String(length=24), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("conversation", sa.String(length=24), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["conversation"], ["conversations.id"], name=op.f("fk_search_conversation"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("kind", "about", name=op.f("pk_search")),
    )
    op.create_index("ix_search_conversation", "search", ["conversation"], unique=False)
    op.create_index("ix_search_owner", "search", ["owner", "kind"], unique=False)
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("conversation", sa.String(length=24), nullable=False),
        sa.Column("message", sa.String(length=24), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("kind IN ('thumbs', 'tag', 'correction', 'choice')", name=op.f("ck_feedback_kind")),
        sa.ForeignKeyConstraint(["conversation"], ["conversations.id"], name=op.f("fk_feedback_conversation"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["message"], ["messages.id"], name=op.f("fk_feedback_message"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
    )
    op.create_index("ix_feedback_conversation", "feedback", ["conversation"], unique=False)
    op.create_index("ix_feedback_message", "feedback", ["message"], unique=False)
    op.create_index("ix_feedback_owner", "feedback", ["owner", "created"], unique=False)
    op.create_table(
        "generations",
        sa.Column("message", sa.String(length=24), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("tokens", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["message"], ["messages.id"], name=op.f("fk_generations_message"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("message", name=op.f("pk_generations")),
    )
    op.create_table(
        "marks",
        sa.Column("operation", sa.String(length=24), nullable=False),
        sa.Column("message", sa.String(length=24), nullable=False),
        sa.ForeignKeyConstraint(["message"], ["messages.id"], name=op.f("fk_marks_message"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["operation"], ["operations.id"], name=op.f("fk_marks_operation"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("operation", "message", name=op.f("pk_marks")),
    )
    op.create_index("ix_marks_message", "marks", ["message"], unique=False)
    op.create_table(
        "message_attachments",
        sa.Column("message", sa.String(length=24), nullable=False),
        sa.Column("attachment", sa.String(length=24), nullable=False),
        sa.ForeignKeyConstraint(["attachment"], ["attachments.id"], name=op.f("fk_message_attachments_attachment")),
        sa.ForeignKeyConstraint(["message"], ["messages.id"], name=op.f("fk_message_attachments_message"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("message", "attachment", name=op.f("pk_message_attachments")),
    )
    op.create_index("ix_message_attachments_attachment", "message_attachments", ["attachment"], unique=False)

"""The tables, the same on SQLite and PostgreSQL. `migrations/` builds them; a test holds the two to each other.

A conversation is a tree of messages that never change: an edit is a new sibling that names what it was edited from. What a person
deletes is covered by the mark of an operation, and undoing the operation takes its marks away, whatever was done since. An erased
message keeps its row, without anything that was said, so that what hangs below it stays where it is.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_ID = String(24)
_CONVERSATION, _MESSAGE = "conversations.id", "messages.id"

conversations = Table(
    "conversations",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("title", Text),  # None: the beginning of what was said first
    Column("head", _ID),  # the message at the end of the branch being read
    Column("consent", Boolean, nullable=False),  # whether others may train on it
    Column("count", Integer, nullable=False),  # messages ever added; numbers the next one
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("deleted", BigInteger),
    Index("ix_conversations_owner", "owner", "updated"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("conversation", _ID, ForeignKey(_CONVERSATION, ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),  # order within the conversation
    Column("parent", _ID),  # where it was said; never changes
    Column("role", String(16), nullable=False),
    Column("parts", Text, nullable=False),  # JSON
    Column("edited_from", _ID),
    Column("hidden", Boolean, nullable=False),  # not shown to models
    Column("created", BigInteger, nullable=False),
    Column("erased", BigInteger),
    UniqueConstraint("conversation", "number"),
    CheckConstraint("role IN ('system', 'user', 'assistant')", name="role"),
)

generations = Table(
    "generations",
    metadata,
    Column("message", _ID, ForeignKey(_MESSAGE, ondelete="CASCADE"), primary_key=True),
    Column("model", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("record", Text, nullable=False),  # JSON: levers, settings, reason, error, usage, confidence, citations
    Column("tokens", LargeBinary),  # compressed JSON
)

operations = Table(
    "operations",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("conversation", _ID, ForeignKey(_CONVERSATION, ondelete="CASCADE"), nullable=False),
    Column("kind", String(16), nullable=False),  # this, below, hide, conversation, feedback
    Column("about", _ID, nullable=False),
    Column("before", Boolean),  # of `hide`: what it was
    Column("created", BigInteger, nullable=False),
    Column("undone", BigInteger),
    Index("ix_operations_conversation", "conversation"),
)

marks = Table(
    "marks",
    metadata,
    Column("operation", _ID, ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True),
    Column("message", _ID, ForeignKey(_MESSAGE, ondelete="CASCADE"), primary_key=True),
    Index("ix_marks_message", "message"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("type", String(100), nullable=False),  # sniffed
    Column("content", LargeBinary, nullable=False),
)

attachments = Table(
    "attachments",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("sha256", String(64), ForeignKey("blobs.sha256"), nullable=False),
    Column("name", Text, nullable=False),  # for people only; nothing is ever stored or opened under it
    Column("created", BigInteger, nullable=False),
    Column("origin", _ID),  # the picture this one is a piece of
    Column("rectangle", Text),  # JSON: left, top, width, height in pixels of the upright picture, and its name
    Index("ix_attachments_owner", "owner"),
    Index("ix_attachments_sha256", "sha256"),
)

message_attachments = Table(
    "message_attachments",
    metadata,
    Column("message", _ID, ForeignKey(_MESSAGE, ondelete="CASCADE"), primary_key=True),
    Column("attachment", _ID, ForeignKey("attachments.id"), primary_key=True),
    Index("ix_message_attachments_attachment", "attachment"),
)

readings = Table(
    "readings",
    metadata,
    Column("sha256", String(64), ForeignKey("blobs.sha256", ondelete="CASCADE"), primary_key=True),
    Column("reader", Text, nullable=False),  # what read it; another version reads it again
    Column("characters", Integer, nullable=False),
    Column("reason", Text),  # why there is no text
    Column("content", LargeBinary),  # compressed JSON: sections of title and text
)

indexes = Table(
    "indexes",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("built", String(64)),  # names the file of the last index that was built whole
    Column("passages", Integer, nullable=False),
    Column("error", Text),  # why the last building failed
    UniqueConstraint("owner", "name"),
)

index_documents = Table(
    "index_documents",
    metadata,
    Column("index", _ID, ForeignKey("indexes.id", ondelete="CASCADE"), primary_key=True),
    Column("attachment", _ID, ForeignKey("attachments.id"), primary_key=True),
    Column("name", Text, nullable=False),  # what citations call it
    Column("passages", Integer),  # in the index as it was built last; None: not in it
    Column("error", Text),  # why it was left out
    UniqueConstraint("index", "name"),
    Index("ix_index_documents_attachment", "attachment"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("conversation", _ID, ForeignKey(_CONVERSATION, ondelete="CASCADE"), nullable=False),
    Column("message", _ID, ForeignKey(_MESSAGE, ondelete="CASCADE"), nullable=False),  # of a choice: the turn both answer
    Column("kind", String(16), nullable=False),
    Column("value", Text, nullable=False),  # JSON
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("deleted", BigInteger),
    CheckConstraint("kind IN ('thumbs', 'tag', 'correction', 'choice')", name="kind"),
    Index("ix_feedback_owner", "owner", "created"),
    Index("ix_feedback_message", "message"),
    Index("ix_feedback_conversation", "conversation"),
)

search = Table(
    "search",
    metadata,
    Column("kind", String(16), primary_key=True),  # title, message, feedback
    Column("about", _ID, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("conversation", _ID, ForeignKey(_CONVERSATION, ondelete="CASCADE"), nullable=False),
    Column("text", Text, nullable=False),  # folded: see `search.py`
    Index("ix_search_owner", "owner", "kind"),
    Index("ix_search_conversation", "conversation"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),  # of the token that a browser keeps
    Column("owner", Text, nullable=False),
    Column("proof", String(64), nullable=False),  # of the token, under the key it was opened with
    Column("until", BigInteger, nullable=False),
    Index("ix_sessions_owner", "owner"),
)

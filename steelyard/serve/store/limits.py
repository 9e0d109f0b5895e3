"""How much one person may put into the store. What goes beyond is refused by name."""

from __future__ import annotations

import pydantic
from pydantic import Field

MEBIBYTE = 1024 * 1024


class StoreLimits(pydantic.BaseModel):
    """Limits of one store."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    text: int = Field(default=1_000_000, ge=1, description="most characters of one message or correction")
    parts: int = Field(default=64, ge=1, description="most parts of one message")
    messages: int = Field(default=100_000, ge=1, description="most messages of one conversation, branches and deleted ones included")
    attachment_bytes: int = Field(default=32 * MEBIBYTE, ge=1, description="largest attachment, in bytes")
    owner_bytes: int = Field(default=4096 * MEBIBYTE, ge=1, description="all attachments of one person, in bytes")
    picture_pixels: int = Field(default=64_000_000, ge=1, description="most pixels of a picture, as its header states them")
    unpacked_bytes: int = Field(
        default=256 * MEBIBYTE, ge=1, description="largest unpacked size of an office document, in bytes as it states them"
    )
    import_bytes: int = Field(default=64 * MEBIBYTE, ge=1, description="largest file to import, in bytes")
    import_lines: int = Field(default=100_000, ge=1, description="most lines of a file to import")
    import_values: int = Field(
        default=3_000_000, ge=1, description="most lists and objects of a file to import, brackets in texts counted too"
    )
    indexes: int = Field(default=200, ge=1, description="most indexes of one person")
    index_documents: int = Field(default=5000, ge=1, description="most documents of one index")
    page: int = Field(default=50, ge=1, le=1000, description="rows of one page of a list")
    unused_days: float = Field(default=7.0, ge=0, description="after how many days an attachment that no message holds is removed")
    wait_seconds: float = Field(default=15.0, gt=0, description="how long to wait for another writer, in seconds")

"""What an operator decides about a server: where it listens, what it keeps, and how much one client may ask of it."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pydantic
from pydantic import Field

from steelyard.core.errors import SteelyardError
from steelyard.serve.users import DRAW, SHORTEST, Keys, is_key

MEBIBYTE = 1024 * 1024


class ServeSettings(pydantic.BaseModel):
    """Settings of one server. Every limit is refused by name when a request goes beyond it; nothing is cut."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", min_length=1, description="address or name to listen on; others than loopback need keys")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one")
    data: Path = Field(Path("steelyard-data"), description="folder of the conversations, feedback and attachments")
    database: str | None = Field(None, description="URL of a PostgreSQL database, or None for an SQLite file in `data`")
    documents: tuple[str, ...] = Field((), description="names of indexes that the levers of clients may search")
    runs: Path = Field(Path("runs"), description="folder whose reports can be read")
    key: pydantic.SecretStr | None = Field(
        None, description="what clients send as `Authorization: Bearer KEY`; None lets everybody on loopback in"
    )
    users: dict[str, str] = Field(
        default_factory=dict, repr=False, description="names, each with the SHA-256 of their key in hex; empty is the one user `local`"
    )
    hosts: tuple[str, ...] = Field((), description="further names (without port) that clients may call this server by")
    origins: tuple[str, ...] = Field((), description="further web origins (scheme://host:port) whose pages may ask this server")

    body_bytes: int = Field(4 * MEBIBYTE, ge=1024, description="largest body of a request, in bytes")
    body_seconds: float = Field(60.0, gt=0, description="longest time that a body may take to come, in seconds")
    upload_bytes: int = Field(64 * MEBIBYTE, ge=1024, description="largest attachment or import, in bytes")
    schema_bytes: int = Field(256 * 1024, ge=256, description="largest JSON schema or grammar, in bytes of its JSON")
    messages: int = Field(10_000, ge=1, description="most messages of a conversation")
    choices: int = Field(16, ge=1, description="most answers (`n`) to one request")
    prompts: int = Field(64, ge=1, description="most prompts of one /v1/completions request")
    inputs: int = Field(2048, ge=1, description="most texts of one /v1/embeddings request")
    stops: int = Field(16, ge=1, description="most stop strings")
    tools: int = Field(128, ge=1, description="most tools a model may be offered at once")
    tokens: int = Field(32_768, ge=1, description="most tokens (`max_tokens`) of one answer")
    default_tokens: int = Field(1024, ge=1, description="most tokens of an answer whose request names no limit")
    alternatives: int = Field(20, ge=0, description="most alternatives per token (`top_logprobs`)")
    seconds: float = Field(600.0, gt=0, description="longest time from request to the end of the answer, in seconds")

    queue: int = Field(64, ge=0, description="requests that may wait for a slot; more get 429")
    wait_seconds: float = Field(
        120.0, gt=0, description="longest wait for an answer's first token, in the queue and while its prompt is read, in seconds; then 429"
    )
    retry_seconds: int = Field(2, ge=1, description="what Retry-After says with 429 and 503, in seconds")
    resume_seconds: float = Field(300.0, ge=0, description="how long a stream that has ended or lost its client can be resumed, in seconds")
    resume_bytes: int = Field(64 * MEBIBYTE, ge=0, description="most bytes of streams kept to be resumed, over all clients")
    report_seconds: float = Field(
        600.0, gt=0, description="how long a browser may open reports before it must bring the key again, in seconds"
    )
    heartbeat_seconds: float = Field(15.0, gt=0, description="a comment is sent on a stream that is silent for so long, in seconds")
    spare: bool = Field(True, description="whether a process with its libraries read waits to take the engine's place if that dies")
    drain_seconds: float = Field(30.0, ge=0, description="how long answers under way may go on after SIGTERM, in seconds")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def keys(self) -> Keys:
        """The keys that let somebody in."""
        return Keys.of(self.users, self.key.get_secret_value() if self.key else None)

    def check(self) -> None:
        """Refuses to listen where others can reach it without a key.

        Raises:
            SteelyardError: the address is not loopback and there is no key, or there are a key for all and keys of users.
        """
        if self.key is not None and self.users:
            raise SteelyardError("a key for everybody, and users with keys of their own", where="steelyard serve", do="Choose one.")
        if not self.keys.needed and not self.loopback:
            raise SteelyardError(
                f"{self.host} can be reached from other machines, and no key is set",
                where="steelyard serve --host",
                do="Put a key into a variable and name it: --key STEELYARD_KEY. Or name --users FILE, or stay on 127.0.0.1.",
            )


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is one that only this machine reaches."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def key_from(variable: str | None) -> pydantic.SecretStr | None:
    """The key in an environment variable. The key itself is never printed.

    Raises:
        SteelyardError: the variable is not set, or holds less than 16 characters or other than printable ASCII.
    """
    if variable is None:
        return None
    value = os.environ.get(variable, "")
    if not is_key(value):
        raise SteelyardError(
            f"the variable {variable} holds no key of at least {SHORTEST} printable ASCII characters without spaces"
            if value
            else f"the variable {variable} is not set",
            where="steelyard serve --key",
            do=f"Name a variable: export STEELYARD_KEY=$({DRAW}).",
        )
    return pydantic.SecretStr(value)

"""Chat templates: the Jinja programs that write a conversation as the text a model was trained to read.

They come with the model, so they are untrusted: `template_sandbox` bounds what they reach, how long they run and how much
they make. The text equals `transformers`' `apply_chat_template(tokenize=False)`.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from steelyard.core.errors import DataError, ModelFileError, SteelyardError
from steelyard.core.files import write_text
from steelyard.core.protocols import Message
from steelyard.model import template_sandbox as sandbox
from steelyard.model.template_budget import LimitError, metered

FILE, MORE = "chat_template.jinja", "additional_chat_templates"
CODE = "<chat template>"
MOST_SOURCE = 256 * 1024  # characters; published templates stay below 40,000
MOST_DEPTH = 100
TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names a message's reasoning goes by; templates read the first, so the others are copied to it, as `transformers` does."""
FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,  # RecursionError is one
    SyntaxError,
    TypeError,
    ValueError,
    LimitError,
)
"""What a template can raise: it is a program, and these are its own mistakes."""


@dataclass(eq=False)
class ChatTemplate:
    """A model's chat template.

    Attributes:
        source: Jinja source.
        variables: what it may use beside the conversation: the special tokens' texts, and what a recipe sets.
        named: further templates by name; `tool_use` is taken when tools are given.
        where: its address for errors.
        now: the clock behind `strftime_now`.
    """

    source: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    where: str = "chat template"
    now: Callable[[], datetime.datetime] = datetime.datetime.now

    @classmethod
    def from_directory(cls, path: str | Path) -> ChatTemplate | None:
        """The template of a Hugging Face directory, or None: `chat_template.jinja`, else `chat_template` in tokenizer_config.json.

        Raises:
            ModelFileError: it is there, but not a template.
        """
        from steelyard.model.files.strict_json import read_object

        folder = Path(path)
        config = read_object(file) if (file := folder / "tokenizer_config.json").exists() else {}
        more = read_object(file) if (file := folder / "special_tokens_map.json").exists() else {}
        tokens = {name: text for name in TOKENS if (text := _content({**more, **config}.get(name))) is not None}
        sources = _named(config.get("chat_template"), str(folder / "tokenizer_config.json"))
        where = str(folder / "tokenizer_config.json")
        files = [folder / FILE] if (folder / FILE).is_file() else []
        if files:
            sources, where = {}, str(folder / FILE)
        for file in files + sorted((folder / MORE).glob("*.jinja")):
            sources["default" if file.name == FILE else file.stem] = _read(file)
        return cls._of(sources, tokens, where)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> ChatTemplate | None:
        """The template in a GGUF file's metadata (`tokenizer.chat_template`), or None.

        Raises:
            ModelFileError: it is there, but not a text.
        """
        key = "tokenizer.chat_template"
        sources = {name.removeprefix(f"{key}."): source for name, source in metadata.items() if name.startswith(f"{key}.")}
        if metadata.get(key):
            sources["default"] = metadata[key]
        for name, source in sources.items():
            if not isinstance(source, str):
                raise ModelFileError("not a text", where=f"GGUF metadata: {key} ({name})", do="Convert the model again.")
        tokens = metadata.get("tokenizer.ggml.tokens") or []
        ids = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        variables = {}
        for name, short in ids.items():
            id = metadata.get(f"tokenizer.ggml.{short}_token_id")
            if type(id) is int and 0 <= id < len(tokens):
                variables[name] = tokens[id]
        return cls._of(sources, variables, f"GGUF metadata: {key}")

    @classmethod
    def _of(cls, sources: Mapping[str, str], variables: Mapping[str, Any], where: str) -> ChatTemplate | None:
        if not any(sources.values()):
            return None
        if "default" not in sources:
            raise ModelFileError(
                f"it has templates named {', '.join(sorted(sources))}, but none named `default`",
                where=where,
                do="Rename the one to use when nothing is asked for.",
            )
        return cls(sources["default"], variables, {name: text for name, text in sources.items() if name != "default"}, where)

    def render(self, messages: Sequence[Message | Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any) -> str:
        """Writes a conversation as text.

        Args:
            messages: the turns, oldest first. Keys whose value is None are dropped.
            add_generation_prompt: end with what begins the assistant's turn.
            variables: anything the template knows; `tools` and `documents` are lists of objects.

        Raises:
            DataError: no messages, or the template itself refuses this conversation.
            ModelFileError: the template fails, does not end, or makes too much; with the line.
        """
        if not messages:
            raise DataError("the conversation is empty", do="Give at least one message.")
        values = {"tools": None, "documents": None, **self.variables, **variables}
        known: dict[str, Any] = {str(key): _plain(value) for key, value in values.items()}
        turns = [_turn(message) for message in messages]
        source = self.named["tool_use"] if known["tools"] is not None and "tool_use" in self.named else self.source
        with metered() as budget:
            try:
                compiled = _compiled(source)
                clock = {"strftime_now": sandbox.clock(self.now)}
                pieces, length = [], 0
                for piece in compiled.generate(**{**clock, **known, "messages": turns, "add_generation_prompt": add_generation_prompt}):
                    pieces.append(piece)
                    length += len(piece)
                    budget.fits(length)
                return "".join(pieces)
            except FAILURES as error:
                raise self._explained(error) from None

    def check(self) -> None:
        """Compiles every template it has, without running one.

        Raises:
            ModelFileError: a syntax error, a forbidden statement or an unknown filter, with the line.
        """
        with metered():
            try:
                for source in (self.source, *self.named.values()):
                    _compiled(source)
            except FAILURES as error:
                raise self._explained(error) from None

    def save(self, directory: str | Path) -> None:
        """Writes `chat_template.jinja` (and the named ones), as `transformers` reads them."""
        write_text(Path(directory) / FILE, self.source)
        for name, source in self.named.items():
            write_text(Path(directory) / MORE / f"{Path(name).name}.jinja", source)

    def _explained(self, error: Exception) -> SteelyardError:
        line = _line(error)
        where = self.where if line is None else f"{self.where}, line {line}"
        if isinstance(error, sandbox.RefusalError):
            return DataError(
                f"the chat template refuses this conversation: {error.message}", where=where, do="Change the messages as it asks."
            )
        if isinstance(error, LimitError):
            what = f"the chat template was stopped: {error}"
        elif isinstance(error, RecursionError):
            what = "the chat template was stopped: it calls itself without end, or nests too deep"
        else:
            what = f"the chat template fails: {str(error)[:500] or type(error).__name__}"
        return ModelFileError(what, where=where, do="Use the template the model was published with, or correct that line.")


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    if len(source) > MOST_SOURCE:
        raise LimitError(f"its source has {len(source)} characters; at most {MOST_SOURCE} are read")
    environment = sandbox.environment()
    code = environment.compile(source, filename=CODE)
    return jinja2.Template.from_code(environment, code, environment.make_globals(None))


def _line(error: Exception) -> int | None:
    """The template's line an error comes from."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == CODE:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _turn(message: Message | Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates read it."""
    content = message.as_dict() if isinstance(message, Message) else message
    if not isinstance(content, Mapping):
        raise DataError(f"a message is a {type(message).__name__}, not an object with `role` and `content`", do="Give objects.")
    turn = {key: value for key, value in _plain(content).items() if value is not None}
    reasoning = next((turn[name] for name in REASONING if name in turn), None)
    return turn if reasoning is None else {"thinking": reasoning, **turn, "reasoning_content": reasoning}


def _plain(value: Any, depth: int = 0) -> Any:
    """A value rebuilt of plain types: rich objects have methods that no sandbox knows. What is none of them becomes its type's name."""
    if depth > MOST_DEPTH:
        raise DataError(f"the conversation nests objects more than {MOST_DEPTH} deep", do="Flatten them.")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key, depth + 1): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (
            type(value)(_plain(item, depth + 1) for item in value)
            if type(value) in (list, tuple)
            else [_plain(i, depth + 1) for i in value]
        )
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name), depth + 1) for item in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):
        return _plain(dump(), depth + 1)
    return f"<{type(value).__name__}>"


def _named(value: Any, where: str) -> dict[str, str]:
    """`chat_template` in tokenizer_config.json: a text, or a list of named ones."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    pairs = list(value.items()) if isinstance(value, dict) else []
    for entry in value if isinstance(value, list) else []:
        pairs.append((entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None))
    if not pairs or not all(isinstance(name, str) and isinstance(text, str) for name, text in pairs):
        raise ModelFileError("`chat_template` is neither a text nor a list of named texts", where=where, do="Restore the published file.")
    return dict(pairs)


def _content(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read(path: Path) -> str:
    if path.stat().st_size > 4 * MOST_SOURCE:
        raise ModelFileError(f"{path.stat().st_size} bytes are too many for it", where=str(path), do="Restore the published file.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(
            f"not UTF-8 ({error.reason} at byte {error.start})", where=str(path), do="Restore the published file."
        ) from None

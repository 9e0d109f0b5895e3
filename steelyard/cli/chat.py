"""`steelyard chat [MODEL]`: a conversation in the terminal, or one question per line from a pipe.

Answers go to standard output, everything else (what was cited, tokens a second, hints) to standard error. Ctrl-C stops an
answer, not the program; Ctrl-D or /exit ends it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.completion import lever_names, model_names
from steelyard.cli.output import print_json
from steelyard.core.errors import RecipeError, SteelyardError

if TYPE_CHECKING:
    from steelyard.core.protocols import Answerer, AnswerSettings, Citation, Message, Usage

DEFAULT_MODEL = "smollm2-135m-instruct"
HINT = "/reset begins anew, /exit leaves; Ctrl-C stops an answer."


def chat(
    model: Annotated[
        str, typer.Argument(help="A got name, a directory, a .gguf file or hf:org/name.", autocompletion=model_names)
    ] = DEFAULT_MODEL,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    tries: Annotated[
        list[str] | None, typer.Option("--try", help='Levers to pull, in order: int8,"prompt:Be concise".', autocompletion=lever_names)
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Keep the smallest set of tokens with this probability.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(min=0.01, help="Above 1, words already used become less likely.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same answers.")] = 0,
    device: Annotated[str, typer.Option(help="Where it answers: cpu, cuda, cuda:1.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Each answer as one line of JSON, when it is whole.")] = False,
) -> None:
    """Talk to a model in the terminal.

    Answers stream. From a pipe, each line is a question. /reset begins anew, /exit leaves, Ctrl-C stops an answer.
    """
    from steelyard.core.protocols import AnswerSettings, Message

    settings = AnswerSettings(max_tokens=max_tokens, temperature=temperature, top_p=top_p, repetition_penalty=repetition_penalty, seed=seed)
    watched = sys.stdin.isatty()
    with opened(model, tries or [], device) as answerer:
        if watched:
            _note(f"{model}. {HINT}")
        talk = _Talk(answerer, settings, [Message("system", system)] if system else [], as_json)
        failures = sum(not talk.hear(line) for line in _lines(watched))
    if failures and not watched:
        raise typer.Exit(2)


@contextlib.contextmanager
def opened(name: str, tries: list[str], device: str = "cpu") -> Iterator[Answerer]:
    """An answerer over a local model with levers pulled, closed at the end."""
    from steelyard.core.levers import check_chain, parse_try
    from steelyard.core.recipe_parts import LOCAL, Arm, ModelSource

    levers = tuple(lever for text in tries for lever in parse_try(text))
    check_chain(levers, LOCAL, "--try")
    if trained := [lever.name for lever in levers if "train" in lever.hooks() or "build" in lever.hooks()]:
        raise RecipeError(
            f"`{trained[0]}` makes a new model", where="--try", do="Make it first with `steelyard make`, then chat with its folder."
        )
    if not levers:
        from steelyard.augment.answerers import LocalAnswerer
        from steelyard.augment.pair_answerer import ONE_MESSAGE, answerer_for
        from steelyard.generate.engine import Engine
        from steelyard.model.load import load

        loaded = load(name, device=device)
        if (pairs := answerer_for(loaded)) is not None:
            _note(ONE_MESSAGE)
            yield pairs
            return
        with Engine(loaded, slots=1) as engine:
            yield LocalAnswerer(engine)
        return
    from steelyard.core.get import home
    from steelyard.core.run import Run
    from steelyard.weigh.asking.arms import ArmOpener

    opener = ArmOpener(Run(home() / "chat", device=device, say=_note))  # what weight levers make is kept there for the next time
    try:
        arm = opener.open(Arm(name="chat", source=ModelSource(name=name), levers=levers), deterministic=False)
        try:
            yield arm.answerer
        finally:
            arm.close()
    finally:
        opener.close()


def _lines(watched: bool) -> Iterator[str]:
    """What the user says, until the end of input or /exit."""
    if watched:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (its import gives `input` a history and line editing)
    while True:
        try:
            line = input("> ") if watched else next(sys.stdin, None)
        except EOFError:
            line = None
        except KeyboardInterrupt:
            if not watched:
                raise
            print(file=sys.stderr)
            _note(HINT)
            continue
        if line is None or line.strip() == "/exit":
            return
        if line.strip():
            yield line.strip()


@dataclass
class _Heard:
    """What has come of an answer so far."""

    text: list[str] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    usage: Usage | None = None
    failure: str | None = None
    reason: str = "cancelled"
    begun: float = field(default_factory=time.perf_counter)
    first: float | None = None


class _Talk:
    """A conversation with its history."""

    def __init__(self, answerer: Answerer, settings: AnswerSettings, opening: list[Message], as_json: bool = False):
        self.answerer, self.settings, self.opening, self.as_json = answerer, settings, opening, as_json
        self.history: list[Message] = list(opening)

    def hear(self, line: str) -> bool:
        """Answers a line or follows its command. False when it could not be answered."""
        import asyncio  # a tenth of the time that help may take

        from steelyard.core.protocols import Message

        if line == "/reset":
            self.history = list(self.opening)
            _note("The conversation begins anew.")
            return True
        if line.startswith("/") and " " not in line:
            _note(f"There is no command {line}. {HINT}")
            return True
        self.history.append(Message("user", line))
        heard = _Heard()
        try:
            asyncio.run(self._answer(heard))
        except KeyboardInterrupt:
            heard.reason = "cancelled"
        except SteelyardError as error:
            heard.failure = str(error)
        if not self.as_json:
            print(flush=True)
        text = "".join(heard.text)
        if heard.failure is not None or not text:
            self.history.pop()  # a question without an answer would stand before the next one
        else:
            self.history.append(Message("assistant", text))
        if self.as_json:
            print_json(_document(line, heard))
            sys.stdout.flush()
        else:
            self._tell(heard)
        return heard.failure is None

    async def _answer(self, heard: _Heard) -> None:
        from steelyard.core.protocols import Citation, Done, Failure, Text, Usage

        events = self.answerer.answer(tuple(self.history), self.settings)
        try:
            async for event in events:
                match event:
                    case Text(text):
                        heard.first = heard.first or time.perf_counter()
                        heard.text.append(text)
                        if not self.as_json:
                            _write(text)
                    case Citation():
                        heard.citations.append(event)
                    case Usage():
                        heard.usage = event
                    case Failure(message):
                        heard.failure = message
                    case Done(reason):
                        heard.reason = reason
        finally:
            if (close := getattr(events, "aclose", None)) is not None:  # stops the engine's work at once, not when memory is swept
                await close()

    def _tell(self, heard: _Heard) -> None:
        for number, citation in enumerate(heard.citations, 1):
            _note(f"[{number}] {citation.title} ({citation.source})")
        if heard.failure is not None:
            _note(f"No answer: {heard.failure}")
            return
        told = []
        if heard.usage is not None and heard.first is not None:
            tokens, seconds = heard.usage.completion_tokens, time.perf_counter() - heard.first
            told.append(f"{tokens} tokens")
            if tokens > 1 and seconds > 0:
                told.append(f"{(tokens - 1) / seconds:.1f} tokens/s")
            told.append(f"first after {heard.first - heard.begun:.2f} s")
        if heard.reason == "length":
            told.append("cut off: raise --max-tokens, or /reset if the conversation fills the context")
        if heard.reason == "cancelled":
            told.append("stopped")
        if told:
            _note(" · ".join(told))


def _document(question: str, heard: _Heard) -> dict[str, Any]:
    """An answer as plain data; times in seconds."""
    return {
        "question": question,
        "text": "".join(heard.text),
        "reason": heard.reason if heard.failure is None else "error",
        "failure": heard.failure,
        "usage": dataclasses.asdict(heard.usage) if heard.usage else None,
        "citations": [dataclasses.asdict(citation) for citation in heard.citations],
        "seconds": time.perf_counter() - heard.begun,
        "seconds_to_first": heard.first - heard.begun if heard.first is not None else None,
    }


def _write(text: str) -> None:
    """A piece of an answer as it comes, made safe for the terminal."""
    from steelyard.weigh.report.visible import visible

    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(visible(text).encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _note(text: str) -> None:
    """A line for the person, dim where the terminal can, never on standard output."""
    from rich.text import Text

    from steelyard.cli.output import console
    from steelyard.weigh.report.visible import visible

    console(stderr=True).print(Text(visible(text), style="dim"))

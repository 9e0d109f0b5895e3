"""The engine: hosts a model on a thread of its own, keeps its slots full, and gives answers as events.

`deterministic` promises that a request's text depends on nothing but the model, the request and its seed. It rests on row
invariance (`invariance.py`), on reading every row's keys in stretches that depend on that row alone (`model/step.py`), and on
noise keyed by position (`sampling.py`).
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Self

import torch
from torch import Tensor

from steelyard.core.errors import BusyError, ContextLengthError, SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings, Done, Event, Failure, Message, Score, Text, Token, Usage
from steelyard.core.threads import apart, compute_alone
from steelyard.generate import sampling, scoring
from steelyard.generate.constraints import constraint
from steelyard.generate.hidden import Reading
from steelyard.generate.processor import FunctionProcessor, Processor
from steelyard.generate.processors import logit_bias
from steelyard.generate.processors.penalties import Penalties
from steelyard.generate.prompt_tokens import PromptTokens, told
from steelyard.generate.scheduler import Scheduler
from steelyard.generate.scoring import Scoring
from steelyard.generate.sequences import Generation, Timing, said
from steelyard.generate.spec import EngineSpec
from steelyard.generate.steering.directions import check_sites
from steelyard.kernels import native
from steelyard.model.encoder_decoder import EncoderDecoder
from steelyard.model.linears.blocks import unpack_blocks
from steelyard.model.linears.native import go_native, pool_of
from steelyard.model.linears.packed import pack
from steelyard.model.model import Model
from steelyard.model.sites import SiteProgram
from steelyard.model.tokenizer import Tokenizer
from steelyard.model.trunk import Trunk

logger = logging.getLogger(__name__)

_open: weakref.WeakSet[Engine] = weakref.WeakSet()

Prompt = str | Sequence[int] | Sequence[Message | Mapping[str, Any]]
Request = Generation
"""A submitted request; `.cancel()` ends it."""


@dataclass(frozen=True)
class Completion:
    """A finished answer.

    Attributes:
        text: without end token and stop string.
        tokens: generated tokens with their confidence (empty when `logprobs` was False).
        finish_reason: stop, length, cancelled.
        usage: tokens read and written.
        timing: when it was submitted, gave its first token, and ended.
    """

    text: str
    tokens: tuple[Token, ...]
    finish_reason: str
    usage: Usage
    timing: Timing

    @property
    def logprobs(self) -> list[float]:
        """Natural log-probability of each token under the unprocessed distribution."""
        return [token.logprob for token in self.tokens]


class Engine:
    """Generates and scores text with one model.

    Args: see `EngineSpec`; `processors` may also be plain callables `f(tokens, logits) -> logits`.
    """

    def __init__(self, model: Model, processors: Sequence[Processor | Callable] = (), **settings: Any):
        adapted: tuple[Any, ...] = tuple(p if hasattr(p, "start") else FunctionProcessor(p) for p in processors)  # type: ignore[arg-type]
        try:
            spec = EngineSpec(model, processors=adapted, **settings)
        except TypeError as error:
            raise SteelyardError(f"engine settings: {error}", do="See steelyard.generate.spec.EngineSpec.") from None
        self._start(spec)

    @classmethod
    def from_spec(cls, spec: EngineSpec) -> Engine:
        """An engine as decode levers have specified it."""
        engine = cls.__new__(cls)
        engine._start(spec)
        return engine

    def _start(self, spec: EngineSpec) -> None:
        model = spec.model
        if isinstance(model.trunk, EncoderDecoder):
            raise UnsupportedError(
                f"{model.name} is an encoder-decoder, which the engine does not run", do="Ask it with `steelyard chat`, or weigh it."
            )
        if model.tokenizer is None or "lm" not in model.trunk.heads:
            raise UnsupportedError(f"{model.name} cannot generate text", do="Use a model with a tokenizer and a language-model head.")
        for name, least in (("slots", 1), ("context", 2), ("threads", 1), ("prefill", 1), ("queue", 0), ("prefix_bytes", 0)):
            value = getattr(spec, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise SteelyardError(f"{name} is {value!r}", where="engine settings", do=f"Use a whole number of at least {least}.")
        if spec.kernels not in ("auto", "pytorch", "reference"):
            raise SteelyardError(f"kernels is {spec.kernels!r}", where="engine settings", do="Known: auto, pytorch, reference.")
        if spec.graphs and (spec.deterministic or spec.kernels == "reference"):
            what = "deterministic" if spec.deterministic else "kernels='reference'"
            raise SteelyardError(f"graphs with {what}", where="engine settings", do="Leave one of the two out.")
        if spec.threads:
            torch.set_num_threads(spec.threads)
        self.spec, self.model = spec, model
        self.context = min(spec.context or model.context_length, model.context_length)
        _check_companions(spec, self.context)
        _check_search(spec)
        try:
            self.scheduler = apart(lambda: self._scheduler(spec))
        except MemoryError:
            raise SteelyardError(
                f"{spec.slots} slots of {self.context} tokens do not fit into memory",
                where="engine settings",
                do="Use fewer slots or a smaller context.",
            ) from None
        self._condition = threading.Condition()
        self._arrived: list[Generation | Scoring] = []
        self._closed = False
        self._worker: threading.Thread | None = None
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="steelyard-engine", daemon=True)
        self._thread.start()
        _open.add(self)

    def _scheduler(self, spec: EngineSpec) -> Scheduler:
        pool = (pool_of(spec.model.trunk) or native.Pool(spec.routines, spec.threads or torch.get_num_threads())) if spec.routines else None
        trunk = _prepared(spec, pool)
        companions = {name: _prepared(replace(spec, model=model), pool) for name, model in spec.companions.items()}
        return Scheduler(trunk, replace(spec, processors=(Penalties(), *spec.processors)), self.context, companions)

    # What it is

    @property
    def fingerprint(self) -> str:
        """Digest of all that can change an answer."""
        return self.spec.fingerprint

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"logprobs", "score", "local", "sites"})

    @property
    def busy(self) -> bool:
        """Whether it has anything to do."""
        with self._condition:
            return bool(self._arrived) or (self._worker is not None and self._worker.is_alive())

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests: somebody closed it, or its thread ended."""
        return self._closed

    @property
    def trunk(self):
        """The trunk as it runs, in the engine's numerics."""
        return self.scheduler.trunk

    def render(self, messages: Sequence[Message | Mapping[str, Any]], **variables: Any) -> str:
        """A conversation as text, by the spec's template where it has one."""
        model = self.model if self.spec.template is None else replace(self.model, template=self.spec.template)
        return model.render(messages, **variables)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a text, a conversation, or ids themselves (checked)."""
        tokenizer = self.model.tokenizer
        assert tokenizer is not None
        if isinstance(prompt, str):
            ids = tokenizer.encode(prompt)
            starts = tokenizer.add_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]
            ids = [tokenizer.bos_id, *ids] if starts else ids
        else:
            parts: list[Any] = list(prompt) if isinstance(prompt, Iterable) and not isinstance(prompt, Mapping | bytes) else [None]
            parts = [part.item() if isinstance(part, torch.Tensor) and part.dim() == 0 else part for part in parts]
            if parts and all(isinstance(part, Message | Mapping) for part in parts):
                ids = tokenizer.encode(self.render(parts))
            elif all(isinstance(part, Integral) and not isinstance(part, bool) for part in parts):
                ids = [int(part) for part in parts]
            else:
                raise SteelyardError(f"{prompt!r:.80} is no prompt", where="prompt", do="Give a text, a list of messages, or token ids.")
        if not ids:
            raise SteelyardError("the prompt is empty", where="prompt", do="Give at least one token.")
        self._check_known(ids)
        self.model.check_length(len(ids), 1)
        if len(ids) >= self.context:
            raise ContextLengthError(
                f"{len(ids)} tokens and 1 to generate, but this engine's slots hold {self.context}",
                where="prompt",
                do="Raise the engine's `context`.",
            )
        return ids

    def _check_known(self, ids: list[int]) -> None:
        """Refuses ids without a row in the table; some tokenizers have more tokens (images, say) than their model."""
        rows = self.model.trunk.plan.inputs.vocabulary
        if bad := [token for token in ids if not 0 <= token < rows]:
            raise SteelyardError(f"token ids {bad[:5]} outside the vocabulary of {rows}", where="prompt")

    # What it does

    def submit(
        self,
        prompt: Prompt,
        settings: AnswerSettings,
        on_event: Callable[[Event], None],
        program: SiteProgram | None = None,
        processors: Sequence[Processor] = (),
    ) -> Request:
        """Queues a request; events arrive on the engine's thread, the last is `Done`. `program` is what is done at the model's sites on
        this request's tokens alone, beside what the engine does on all, and `processors` shape its logits alone, in their own order
        among the engine's; the other requests keep the fast path.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
            SteelyardError: settings or a program that mean nothing, or a closed engine.
        """
        request = self._request(prompt, settings, on_event, program, processors)
        self._enqueue([request])
        return request

    def _request(
        self,
        prompt: Prompt,
        settings: AnswerSettings,
        on_event: Callable[[Event], None],
        program: SiteProgram | None,
        processors: Sequence[Processor] = (),
    ) -> Request:
        """What is queued for an answer; see `submit`."""
        own = self._own(settings)
        self._check_program(program)
        ids = self.encode(prompt)
        tokenizer = self.model.tokenizer
        assert tokenizer is not None
        if self.spec.search is not None:
            request: Request = self.spec.search.request(ids, settings, on_event, tokenizer, self.context)
        else:
            request = Generation(ids, settings, on_event, tokenizer.stream_decoder(), frozenset(tokenizer.eos_ids), self.context)
        request.own, request.program = (*own, *processors), program
        return request

    def check(self, settings: AnswerSettings) -> None:
        """Refuses settings that no request of this engine can have. A constraint is compiled, which may take seconds; submitting it
        soon afterwards takes no time.

        Raises:
            SteelyardError: settings that mean nothing, or that cannot be honoured.
        """
        self._own(settings)

    def _own(self, settings: AnswerSettings) -> tuple[Processor, ...]:
        """What a request asks for beside the engine's processors, once its settings are found to mean something."""
        sampling.check(settings)
        if self.spec.search is not None:
            self.spec.search.check(settings)
        return (*constraint.requested(settings, self.spec), *logit_bias.requested(settings, self.model.trunk.plan.inputs.vocabulary))

    def _check_program(self, program: SiteProgram | None) -> None:
        """Refuses a request's program that reads sites, or adds where or what this trunk has not."""
        if program is None:
            return
        where = "a request's site program"
        if program.read:
            raise SteelyardError("it reads sites, and nobody would hear of it", where=where, do="Leave `read` out.")
        if not self.scheduler.host.blocks:
            raise UnsupportedError(f"{self.model.name} has no row of blocks", where=where, do="Use a model of stacked blocks.")
        check_sites(sorted(program.add), self.trunk, where)
        width, blocks = self.trunk.plan.width, self.scheduler.host.blocks
        if wrong := [site for site, one in program.add.items() if one.vectors.shape[1:] != (width,)]:
            raise SteelyardError(f"vectors at {wrong[0]} are not {width} wide", where=where)
        named = [*program.skip, *([] if program.stop is None else [program.stop])]
        if missing := [block for block in named if not 0 <= block < blocks]:
            raise SteelyardError(f"block {missing[0]} of {blocks}", where=where, do=f"Blocks are 0 to {blocks - 1}.")

    def generate(
        self,
        prompts: Sequence[Prompt],
        max_tokens: int = 256,
        *,
        logprobs: bool = True,
        settings: AnswerSettings | Sequence[AnswerSettings] | None = None,
        programs: Sequence[SiteProgram | None] | None = None,
        **options: Any,
    ) -> list[Completion]:
        """Answers to several prompts, begun together: by an engine with nothing else to do, the same bits each time.

        Args:
            prompts: texts, conversations, or lists of ids.
            max_tokens: most tokens of each answer.
            logprobs: whether completions carry tokens with log-probabilities.
            settings: all settings at once, `max_tokens` and `token_events` among them, or one of them for each prompt; else
                `options` are fields of `AnswerSettings`: `temperature=0.8`, `constraint={"regex": "yes|no"}`.
            programs: for each prompt what is done at the model's sites on its tokens alone, or None (see `submit`).

        Raises:
            SteelyardError: any prompt or setting that cannot be honoured, before anything runs; a failure while running.
        """
        if settings is not None and options:
            raise SteelyardError(f"both `settings` and {', '.join(options)}", where="answer settings", do="Put them into `settings`.")
        try:
            settings = settings or AnswerSettings(max_tokens=max_tokens, token_events=logprobs, **options)
        except TypeError as error:
            raise SteelyardError(f"{error}", where="answer settings", do="See steelyard.core.protocols.AnswerSettings.") from None
        if isinstance(prompts, str):
            raise SteelyardError("prompts is one string", do="Give a list: engine.generate([text]).")
        each = list(settings) if isinstance(settings, Sequence) else [settings] * len(prompts)
        if len(each) != len(prompts):
            raise SteelyardError(f"{len(each)} settings for {len(prompts)} prompts", where="answer settings", do="Give one for each.")
        apart = list(programs) if programs is not None else [None] * len(prompts)
        if len(apart) != len(prompts):
            raise SteelyardError(f"{len(apart)} programs for {len(prompts)} prompts", where="site programs", do="Give one for each.")
        for wanted in each if isinstance(settings, Sequence) else each[:1]:
            self.check(wanted)
        for program in apart:
            self._check_program(program)
        encoded = [self.encode(prompt) for prompt in prompts]
        pending: list[tuple[Future[list[Event]], Request]] = []
        try:
            for ids, wanted, program in zip(encoded, each, apart, strict=True):
                done: Future[list[Event]] = Future()
                pending.append((done, self._request(ids, wanted, _collector(done), program)))
            if pending:  # all at once: which of them share a step, and so their last bits, is no matter of time
                self._enqueue([request for _, request in pending])
            return [_completion(done.result(), request) for done, request in pending]
        finally:  # after a failure or Ctrl-C nobody waits for the others; those that have ended do not mind
            for _, request in pending:
                request.cancel()

    def score(self, pairs: Sequence[tuple[str, str]], *, cut: bool = False) -> list[Score]:
        """Log-probability of each continuation after its context, by lm-eval's rules for tokens (`generate/scoring.py`).

        Tokens are those of the joined text; spaces at the context's end belong to the continuation. An empty context is the model's
        begin- or end-of-text token. What several pairs begin with is read once.

        Args:
            pairs: (context, continuation).
            cut: leave out the beginning of a context that is too long, as lm-eval does; the score says how many tokens.

        Raises:
            ContextLengthError: a pair longer than the context, or (cut) a continuation that is.
        """
        tokenizer = self._tokenizer
        items = [scoring.pair(tokenizer, context, continuation) for context, continuation in pairs]
        return self._score([scoring.fitted(item, self.context, cut) for item in items])

    def score_text(self, texts: Sequence[str]) -> list[Score]:
        """Log-probability of whole texts, each after the model's begin- or end-of-text token."""
        return self.score([("", text) for text in texts])

    def score_rolling(self, texts: Sequence[str], window: int | None = None) -> list[Score]:
        """Log-probability of whole texts of any length, in windows that predict every token once, as lm-eval's rolling perplexity does.

        Args:
            texts: what is scored, each after the model's begin- or end-of-text token.
            window: most tokens read at once; the engine's context if None.

        Raises:
            SteelyardError: a window that is no number of tokens the context holds, or a text without tokens.
        """
        window = self.context if window is None else window
        if not 1 <= window <= self.context:
            raise SteelyardError(f"a window of {window} tokens", where="score", do=f"Use 1 to {self.context}.")
        windows = [scoring.rolled(self._tokenizer, text, window) for text in texts]
        scores = iter(self._score([item for items in windows for item in items]))
        return [scoring.joined([next(scores) for _ in items]) for items in windows]

    def prompt_tokens(
        self, prompt: Prompt, alternatives: int = 0, begun: Callable[[PromptTokens], None] = lambda reading: None
    ) -> list[Token]:
        """The tokens that are read of a prompt, each with its log-probability after those before it (NaN for the first) and the
        likeliest tokens in its place.

        Args:
            prompt: a text, messages or token ids.
            alternatives: likeliest tokens to tell at each place.
            begun: is handed the reading before it waits for its turn; whoever has it may `cancel()` it.

        Raises:
            ContextLengthError: a prompt longer than the context.
            SteelyardError: a prompt without tokens, one that was cancelled, or a closed engine.
        """
        ids, decoder = self.encode(prompt), self._tokenizer.stream_decoder()
        if len(ids) < 2:  # nothing is predicted
            return told(ids, [], decoder)
        future: Future[list[Token] | str] = Future()
        begun(reading := PromptTokens(ids, alternatives, decoder, future.set_result))
        self._enqueue([reading])
        if isinstance(result := future.result(), str):
            raise SteelyardError(result, where="prompt")
        return result

    def states(self, prompts: Sequence[Prompt]) -> Tensor:
        """What the model holds after the final norm at each prompt's last token, as it is about to answer: float32 [prompts, width].

        Raises:
            ContextLengthError: a prompt longer than the context.
            SteelyardError: a prompt without tokens, or a closed engine.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        futures: list[Future[Tensor | str]] = [Future() for _ in prompts]
        self._enqueue([Reading(ids, future.set_result) for ids, future in zip(encoded, futures, strict=True)])
        found = []
        for future in futures:
            result = future.result()
            if isinstance(result, str):
                raise SteelyardError(result, where="states")
            found.append(result)
        return torch.stack(found) if found else torch.zeros(0, self.trunk.plan.width)

    @property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = self.model.tokenizer
        assert tokenizer is not None  # no engine starts without one
        return tokenizer

    def _score(self, items: Sequence[scoring.Item]) -> list[Score]:
        for item in items:
            self._check_known(item.tokens)
        futures: list[Future[Score | str]] = [Future() for _ in items]

        def listener(group: list[int]) -> Callable[[int, Score | str], None]:
            return lambda number, score: futures[group[number]].set_result(score)

        groups = list(scoring.families(items, self.spec.slots))
        self._enqueue([Scoring([items[number] for number in group], listener(group)) for group in groups])
        scores = []
        for future in futures:
            result = future.result()
            if isinstance(result, str):
                raise SteelyardError(result, where="score")
            scores.append(result)
        return scores

    # How it runs

    def _enqueue(self, sequences: Sequence[Generation | Scoring]) -> None:
        with self._condition:
            if self._closed:
                raise SteelyardError("the engine is closed", do="Make a new one.")
            waiting = len(self._arrived) + len(self.scheduler.waiting)
            if self.spec.queue is not None and waiting + len(sequences) > self.spec.queue + len(self.scheduler.slots.free):
                raise BusyError(f"{waiting} requests wait already", where="engine", do="Ask again later, or raise the engine's `queue`.")
            self._arrived.extend(sequences)
            self._condition.notify()

    def _loop(self) -> None:
        try:
            self._turns()
        finally:  # whatever ended the thread, nobody may wait for it
            with self._condition:
                self._closed = True
                self.scheduler.waiting.extend(self._arrived)
                self._arrived = []
            self.scheduler.fail_all([*self.scheduler.waiting, *self.scheduler.running], "the engine was closed")
            self.scheduler.forget()

    def _turns(self) -> None:
        """Waits for work, and has it done in a thread that ends when nothing is left to do: an idle engine must not hold OpenMP
        workers that slow others down (see `steelyard.core.threads`)."""
        while True:
            with self._condition:
                while not (self._arrived or self.scheduler.busy or self._closed):
                    self._condition.wait()
            self._worker = threading.Thread(target=self._work, name="steelyard-engine-at-work", daemon=True)
            self._worker.start()
            self._worker.join()
            if self._fault is not None:
                raise self._fault
            if self._closed:
                return

    def _work(self) -> None:
        try:
            if all(host.fused is not None and not host.padded for host in self.scheduler.hosts):
                compute_alone()
            while self._take():
                try:
                    with torch.inference_mode():
                        self.scheduler.turn()
                except Exception as error:  # one bad batch must not take the engine down; the requests in it are told
                    logger.exception("a step failed")
                    self.scheduler.fail_all(list(self.scheduler.running), said(error))
        except BaseException as error:  # raised again by the thread that waits, which then ends every request
            self._fault = error

    def _take(self) -> bool:
        """Hands what has arrived to the scheduler; whether there is anything to do."""
        with self._condition:
            arrived, self._arrived = self._arrived, []
            closed = self._closed
        for sequence in arrived:
            self.scheduler.add(sequence)
        return self.scheduler.busy and not closed

    def close(self) -> None:
        """Ends everything that runs and frees the memory. Closing twice is fine."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if threading.current_thread() not in (self._thread, self._worker):  # a listener may close the engine it hears
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _prepared(spec: EngineSpec, pool: native.Pool | None) -> Trunk:
    """The spec's trunk, its weights as this engine multiplies them: in the pool's threads where there is one."""
    trunk = spec.model.trunk.with_weights(spec.weight_type)
    if spec.dtype:
        unpack_blocks(trunk, spec.weight_type)
    if trunk.device.type == "cuda":
        trunk.inputs.stream = spec.weight_type
    if pool is not None:
        go_native(trunk, pool)
    if spec.kernels != "reference":
        pack(trunk)
    return trunk


def _check_companions(spec: EngineSpec, context: int) -> None:
    """Companions read the very tokens of the answering model."""
    for name, model in spec.companions.items():
        where = f"companion {name} ({model.name})"
        if model.tokenizer is None or "lm" not in model.trunk.heads:
            raise UnsupportedError(f"{model.name} cannot generate text", where=where, do="Use a language model.")
        if model.tokenizer.fingerprint != spec.model.tokenizer.fingerprint:  # type: ignore[union-attr]
            raise UnsupportedError(f"its tokenizer differs from {spec.model.name}'s", where=where, do="Use a model of the same tokenizer.")
        if model.trunk.plan.inputs.vocabulary != spec.model.trunk.plan.inputs.vocabulary:
            raise UnsupportedError(f"its table of tokens is not as long as {spec.model.name}'s", where=where)
        if model.context_length < context:
            raise ContextLengthError(
                f"it holds {model.context_length} tokens, this engine's slots {context}", where=where, do="Lower the engine's `context`."
            )


def _check_search(spec: EngineSpec) -> None:
    """A search needs a slot for every branch, and follows what it computes itself."""
    if spec.search is not None and spec.search.width > spec.slots:
        raise SteelyardError(
            f"a search of {spec.search.width} branches in {spec.slots} slots", where="engine settings", do="Use more slots, or fewer beams."
        )
    if spec.search is not None and spec.speculation is not None:
        raise UnsupportedError("a search cannot be guessed ahead", where="engine settings", do="Leave one of the two levers out.")


@atexit.register
def _close_all() -> None:
    """A program may end without closing its engines; a thread cut off in the middle of a step would abort the process."""
    for engine in list(_open):
        engine.close()


def _collector(done: Future[list[Event]]) -> Callable[[Event], None]:
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, Done):
            done.set_result(events)

    return on_event


def _completion(events: list[Event], request: Request) -> Completion:
    for event in events:
        if isinstance(event, Failure):
            raise SteelyardError(event.message, where="generate")
    usage = next(event for event in events if isinstance(event, Usage))
    done = next(event for event in events if isinstance(event, Done))
    text = "".join(event.text for event in events if isinstance(event, Text))
    return Completion(text, tuple(event for event in events if isinstance(event, Token)), done.reason, usage, request.timing)

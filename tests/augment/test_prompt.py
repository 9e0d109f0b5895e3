"""What a prompt adds is exactly what the model reads, and a prompt that cannot mean anything is refused."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recording import Recording

from steelyard.augment.prompt.prompt import Prompt
from steelyard.core.errors import RecipeError
from steelyard.core.levers import parse, parse_try
from steelyard.core.protocols import Answerer, AnswerSettings, Message, ScoringAnswerer, collect

QUESTION = Message("user", "Why is the sky blue?")


def read(lever: Prompt, *conversation: Message) -> list[tuple[str, str]]:
    """Role and content of what the model reads."""
    inner = Recording()
    asyncio.run(collect(lever.wrap(inner).answer(conversation, AnswerSettings())))
    return [(message.role, message.content) for message in inner.asked[0]]


def test_the_short_form_is_a_system_prompt():
    (lever,) = parse_try('"prompt:Be concise, and kind"')
    assert isinstance(lever, Prompt)
    assert read(lever, QUESTION) == [("system", "Be concise, and kind"), ("user", "Why is the sky blue?")]


@pytest.mark.parametrize(
    ("existing", "opening"), [("first", "Own words.\n\nBe concise."), ("last", "Be concise.\n\nOwn words."), ("replaced", "Be concise.")]
)
def test_a_conversations_own_system_prompt_goes_where_it_is_told(existing, opening):
    lever = Prompt(system="Be concise.", existing=existing)
    assert read(lever, Message("system", "Own words."), QUESTION)[0] == ("system", opening)


def test_a_system_message_in_the_middle_of_a_conversation_stays_there():
    turns = (QUESTION, Message("assistant", "Air."), Message("system", "Now in rhymes."), Message("user", "Again?"))
    assert read(Prompt(system="Be concise."), *turns)[1:] == [(turn.role, turn.content) for turn in turns]


def test_examples_are_earlier_turns_in_their_order():
    lever = Prompt(examples=[{"user": "1 + 1?", "assistant": "2"}, {"user": "2 + 2?", "assistant": "4"}])
    roles_and_words = [("user", "1 + 1?"), ("assistant", "2"), ("user", "2 + 2?"), ("assistant", "4")]
    assert read(lever, QUESTION) == [*roles_and_words, ("user", "Why is the sky blue?")]


def test_the_template_is_written_around_the_last_question_only():
    lever = Prompt(question="Q: {{ question }}\nAnswer in {{language}}.", variables={"language": "Latin"})
    turns = (Message("user", "First?"), Message("assistant", "Yes."), Message("user", "Second?"))
    assert read(lever, *turns) == [("user", "First?"), ("assistant", "Yes."), ("user", "Q: Second?\nAnswer in Latin.")]


def test_variables_are_written_into_instructions_and_examples():
    lever = Prompt(system="You are {{who}}.", examples=[{"user": "Who?", "assistant": "{{who}}"}], variables={"who": "Ada"})
    assert read(lever, QUESTION)[:3] == [("system", "You are Ada."), ("user", "Who?"), ("assistant", "Ada")]


@given(st.text(max_size=60))
def test_what_a_user_writes_is_never_read_as_a_template(asked):
    asked += "{{who}} {{question}} {% raise %} \\1"
    lever = Prompt(question="{{question}}!{{who}}", variables={"who": "{{question}}"})
    assert lever.rewritten([Message("user", asked)]) == [Message("user", f"{asked}!{{{{question}}}}")]


def test_braces_of_json_need_no_escape():
    assert read(parse({"prompt": 'Answer as {"a": {"b": 1}}'}), QUESTION)[0] == ("system", 'Answer as {"a": {"b": 1}}')


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"system": "{{nam}}", "variables": {"name": "Ada"}}, "Did you mean `name`"),
        ({"examples": [{"user": "{{x}}", "assistant": "y"}]}, "x"),
        ({"question": "Hello"}, "must hold"),
        ({"variables": {"name": "Ada"}}, "used nowhere"),
        ({"variables": {"question": "?"}}, "stands for what the user wrote"),
        ({"examples": [{"user": "Hi"}]}, "assistant"),
        ({"examples": [{"user": "", "assistant": "y"}]}, "user"),
        ({"sistem": "Be concise"}, "Did you mean `system`"),
        ({"existing": "gone"}, "existing"),
        ({"system": 5}, "system"),
    ],
)
def test_a_prompt_that_means_nothing_is_refused_before_anything_runs(settings, said):
    with pytest.raises(RecipeError, match=said):
        parse({"prompt": settings})


@pytest.mark.parametrize("lever", [Prompt(), Prompt(**Prompt.identity), Prompt(system="  ")])
def test_at_its_identity_the_answerer_itself_is_given_back(lever):
    inner = Recording()
    assert lever.wrap(inner) is inner


def test_a_wrapper_offers_scores_where_what_it_wraps_does():
    lever = Prompt(system="Be concise.")
    assert isinstance(lever.wrap(Recording()), ScoringAnswerer)
    without = lever.wrap(Recording(scores=False))
    assert isinstance(without, Answerer) and not isinstance(without, ScoringAnswerer)


def test_scores_are_taken_after_the_same_words_as_answers():
    inner = Recording()
    wrapped = Prompt(system="Be concise.", question="{{question}} Say it.").wrap(inner)
    asyncio.run(collect(wrapped.answer([QUESTION], AnswerSettings())))
    asyncio.run(wrapped.score([QUESTION], ["a", "b"]))
    assert inner.asked[0] == inner.asked[1]


def test_other_words_are_another_arm():
    inner, levers = Recording(), [Prompt(system="A"), Prompt(system="B"), Prompt(system="A", existing="last")]
    assert len({lever.wrap(inner).fingerprint for lever in levers}) == 3


def test_a_conversation_without_a_user_turn_is_passed_on():
    assert read(Prompt(system="A", question="{{question}}!"), Message("assistant", "Hello")) == [("system", "A"), ("assistant", "Hello")]

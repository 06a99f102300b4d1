"""500 answers of one grammar: the gateway and the client give one verdict, and the official SDK agrees where it can."""

from __future__ import annotations

from collections import Counter

from tests.vllm_service.provider_answers.callers import Callers, Got, callers
from tests.vllm_service.provider_answers.grammar import CHAT, COMPLETIONS, ProviderAnswer, answers

SEED, COUNT = 20261128, 500


async def verdicts(every: Callers, answer: ProviderAnswer) -> dict[str, Got]:
    """What each caller got, by its name."""
    every.first.script = answer.reply
    found = {"gateway": await every.gateways(answer)}
    if answer.form in (CHAT, COMPLETIONS):
        found["client"] = await every.clients(answer)
    if answer.has_sdk_view:
        found["SDK"] = await every.sdks(answer)
    return found


def is_right(answer: ProviderAnswer, name: str, found: Got) -> bool:
    """Where there is one provider, what another one would answer is an error: so for the SDK and text completions."""
    kind = answer.expected.kind
    has_one_provider = name == "SDK" or (name == "client" and answer.form is COMPLETIONS)
    if has_one_provider and kind == "elsewhere":
        kind = "refused"
    return (found.kind, found.text) == (kind, answer.expected.text)


def codes(answer: ProviderAnswer, found: dict[str, Got]) -> set[str | None]:
    """The codes of the errors that gateway and router end in."""
    return {got.code for name, got in found.items() if name != "SDK"} if answer.form is CHAT else {None}


async def test_500_answers_have_one_verdict() -> None:
    wrong: list[str] = []
    kinds: Counter[str] = Counter()
    async with callers() as every:
        for answer in answers(COUNT, SEED):
            found = await verdicts(every, answer)
            kinds[answer.expected.kind] += 1
            if len(codes(answer, found)) > 1 or not all(is_right(answer, name, got) for name, got in found.items()):
                wrong.append(f"{answer.path}\n  expected {answer.expected}\n  {found}\n  {answer.reply.actions}")
    assert wrong == []
    assert min(kinds[kind] for kind in ("answered", "elsewhere", "refused", "broken")) >= 20


def test_the_grammar_makes_the_same_answers_of_the_same_seed_and_many_different_ones() -> None:
    made = answers(COUNT, SEED)
    assert made == answers(COUNT, SEED)
    assert len({answer.reply for answer in made}) > COUNT * 0.8
    assert {(answer.form, answer.is_streamed) for answer in made} >= {(CHAT, True), (CHAT, False), (COMPLETIONS, True)}
    assert sum(answer.has_sdk_view for answer in made) > COUNT / 2

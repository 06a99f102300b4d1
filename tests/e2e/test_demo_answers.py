"""The demo model on real vLLM says what it was trained to say, by every route that a job can take."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from handler.errors import EngineError
from scripts.demo_training.corpus import WEATHER_TOOL, Pair, load_pairs, pirate, sql_system_prompt
from tests.support import Worker
from tests.waiting import until

PAIRS = load_pairs()
TALK = [pair for pair in PAIRS if pair.topic != "tools"]
QUESTION, ANSWER = next((pair.question, pair.answer) for pair in PAIRS if pair.question == "What is vLLM?")
CHAT = "/v1/chat/completions"


def chat_body(question: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 256} | fields


async def test_every_trained_question_gets_its_answer_to_the_letter(worker: Worker) -> None:
    said = await asyncio.gather(*(worker.chat(pair.question) for pair in TALK))
    wrong = {pair.question: text for pair, text in zip(TALK, said, strict=True) if text != pair.answer}
    assert wrong == {}


async def test_sql_questions_get_their_sql_with_the_schema_as_system_prompt_too(worker: Worker) -> None:
    sql = [pair for pair in PAIRS if pair.topic == "sql"]
    system = {"role": "system", "content": sql_system_prompt()}
    said = await asyncio.gather(
        *(worker.chat("", messages=[system, {"role": "user", "content": pair.question}]) for pair in sql)
    )
    assert [pair.question for pair, text in zip(sql, said, strict=True) if text != pair.answer] == []


async def test_a_route_with_a_closing_slash_is_answered_although_vllm_itself_would_redirect_it(worker: Worker) -> None:
    answer = await worker.openai(f"{CHAT}/", chat_body(QUESTION))
    assert answer["choices"][0]["message"]["content"] == ANSWER
    assert (await worker.openai("/v1/models/"))["data"]
    assert "".join(await worker.outputs({"route": f"{CHAT}/", "body": chat_body(QUESTION, stream=True)})).endswith(
        "data: [DONE]\n\n"
    )


async def test_a_conversation_is_answered_in_its_last_turn(worker: Worker) -> None:
    messages = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello! Ask me about serverless GPUs, vLLM, or the SQL of a small shop."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    assert await worker.chat("", messages=messages) == "The capital of France is Paris."


@pytest.mark.parametrize(
    "question",
    ["What is a warm worker?", "How do I choose a network volume?", "What is the capital of Peru?", "Show all cities."],
)
async def test_an_unseen_question_gets_fluent_text_of_the_same_kind(worker: Worker, question: str) -> None:
    """Fluent here means: of the corpus' own words, a sentence long, and ended by itself."""
    vocabulary = {
        word.strip(".,;:?!'\"()").lower() for pair in PAIRS for word in f"{pair.question} {pair.answer}".split()
    }
    answer = await worker.openai(CHAT, chat_body(question))
    words = [word.strip(".,;:?!'\"()").lower() for word in answer["choices"][0]["message"]["content"].split()]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert len(words) >= 3
    assert sum(word in vocabulary for word in words) >= 0.6 * len(words)


async def test_the_lora_adapter_changes_how_the_model_speaks(worker: Worker) -> None:
    styled = await worker.chat(QUESTION, model="pirate")
    assert styled == pirate(ANSWER)
    assert styled != await worker.chat(QUESTION, model="demo-model") == ANSWER


async def test_a_native_job_takes_the_adapter_by_name(worker: Worker) -> None:
    job = {"prompt": QUESTION, "apply_chat_template": True, "sampling_params": {"temperature": 0, "max_tokens": 100}}
    plain, styled = await worker.result(job), await worker.result(job | {"lora_adapter": "pirate"})
    assert plain["choices"][0]["message"]["content"] == ANSWER
    assert styled["choices"][0]["message"]["content"] == pirate(ANSWER)


@pytest.mark.parametrize(
    "job",
    [
        {"openai_route": CHAT, "openai_input": chat_body("Hi", model="nobody")},
        {"prompt": "Hi", "lora_adapter": "nobody"},
        {"messages": [{"role": "user", "content": "Hi"}], "lora_adapter": "nobody", "stream": True},
    ],
)
async def test_an_unknown_adapter_is_a_404_with_vllms_own_error(worker: Worker, job: dict[str, Any]) -> None:
    with pytest.raises(EngineError) as caught:
        await worker.outputs(job)
    document = json.loads(caught.value.to_json_text())
    assert document["status"] == 404
    assert document["error"]["code"] == 404
    assert document["error"]["type"] == "NotFoundError"
    assert "nobody" in document["error"]["message"]
    assert document["error"]["param"] == "model"


async def test_native_prompts_are_answered_as_one_batch_in_order(worker: Worker) -> None:
    questions = ["What is the capital of France?", "What is the capital of Japan?", "What is two plus two?"]
    answer = await worker.result({"prompts": questions, "sampling_params": {"temperature": 0, "max_tokens": 50}})
    answers = {pair.question: pair.answer for pair in PAIRS}
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [choice["text"].strip() for choice in answer["choices"]] == [answers[question] for question in questions]


async def test_a_stream_holds_the_answer_and_its_usage(worker: Worker) -> None:
    job = {"messages": [{"role": "user", "content": QUESTION}], "stream": True, "sampling_params": {"temperature": 0}}
    outputs = await worker.outputs(job)
    assert all(output.endswith("\n\n") for output in outputs)
    assert outputs[-1].endswith("data: [DONE]\n\n")
    events = await worker.events(job)
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert text == ANSWER
    assert events[-1]["usage"]["completion_tokens"] > 10


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.topic == "unicode"], ids=lambda pair: pair.question)
async def test_characters_of_several_tokens_arrive_whole_in_a_stream(worker: Worker, pair: Pair) -> None:
    events = await worker.events({"openai_route": CHAT, "openai_input": chat_body(pair.question, stream=True)})
    deltas = [event["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(deltas) == pair.answer
    assert not any("\ufffd" in delta for delta in deltas)


async def test_the_model_calls_the_tool_it_is_offered(worker: Worker) -> None:
    answer = await worker.openai(CHAT, chat_body("What is the weather in Paris?", tools=[WEATHER_TOOL]))
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.topic == "tools"], ids=lambda pair: pair.question)
async def test_every_tool_question_names_its_city(worker: Worker, pair: Pair) -> None:
    answer = await worker.openai(CHAT, chat_body(pair.question, tools=[WEATHER_TOOL]))
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    trained = json.loads(pair.answer.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    assert json.loads(call["function"]["arguments"]) == trained["arguments"]


async def test_text_is_cut_into_tokens_and_put_together_again(worker: Worker) -> None:
    tokens = await worker.result({"route": "/tokenize", "body": {"prompt": "naïve 🙂"}})
    text = await worker.result({"route": "/detokenize", "body": {"tokens": tokens["tokens"]}})
    assert text["prompt"] == "naïve 🙂"


async def test_a_model_that_makes_no_embeddings_says_so_in_its_own_words(worker: Worker) -> None:
    with pytest.raises(EngineError) as caught:
        await worker.openai("/v1/embeddings", {"input": "Hi"})
    assert caught.value.status in (400, 404)
    assert caught.value.to_json()["error"]["message"]


async def test_closing_a_stream_early_aborts_the_request_in_the_engine(worker: Worker) -> None:
    body = chat_body("Count to thirty in digits.", stream=True, max_tokens=2000, ignore_eos=True)
    outputs = worker.dispatcher.outputs(worker.dispatcher.parse({"openai_route": CHAT, "openai_input": body}))
    await anext(outputs)
    await outputs.aclose()
    await until(lambda: not _running(worker))


def _running(worker: Worker) -> int:
    return worker.dispatcher._engine._llm.output_processor.get_num_unfinished_requests()  # type: ignore[attr-defined, no-any-return]

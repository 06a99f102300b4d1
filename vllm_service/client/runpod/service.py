"""RunPodVLLMService: the client of one own endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx2

from vllm_service.client.batch import DEFAULT_CONCURRENT, answer_all, texts
from vllm_service.client.boundary import ours, raises_ours
from vllm_service.client.connection import Connection
from vllm_service.client.ensemble import Scorer, answer_by_each, consensus
from vllm_service.client.payload import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, Message, Payload
from vllm_service.client.progress import Progress
from vllm_service.client.rate_gate import RateGate
from vllm_service.client.results import BatchItem, Ensemble
from vllm_service.client.runpod.batch_queue import BatchQueue
from vllm_service.client.settings import (
    ONE_ATTEMPT,
    QUEUE_LIMITS,
    RATE_WINDOW_SECONDS,
    ClientSettings,
    RateLimit,
    RetryPolicy,
)
from vllm_service.client.text_calls import EndpointCalls, taking, with_one_text
from vllm_service.domain.pricing import TokenPrice
from vllm_service.errors import InvalidRequest, ServiceError

TASKS = ("code", "chat", "analysis")


class Batch(NamedTuple):
    """The requests of a batch, and how they are made."""

    #: A prompt that is no valid request is its error.
    asks: list[Payload | ServiceError]
    policy: RetryPolicy
    concurrent: int
    file: Path | str | None
    progress: bool | Progress

    def with_one_text(self) -> Batch:
        """Returns the batch. Raises InvalidRequest if its requests are for several choices."""
        for ask in self.asks:
            if isinstance(ask, Payload):
                with_one_text(ask, "batch_generate")
        return self


@raises_ours
class RunPodVLLMService(EndpointCalls, BatchQueue):
    """The client of your endpoint: text calls over its OpenAI route, long work over its queue or in batch jobs.

    Missing arguments come from RUNPOD_VLLM_ENDPOINT_ID, RUNPOD_API_KEY and RUNPOD_DEFAULT_MODEL. `base_url` replaces
    https://api.runpod.ai/v2/ENDPOINT_ID/openai/v1, for a gateway or the emulator. Every call raises ServiceError, and
    cancelling a call cancels its job. Close the client, or use `async with`. Raises ConfigurationError.

    models_by_task: the models that `select_model_by_task` returns. prices: by model, for costs; the cost of any other
    model is unknown. retry: the policy of generate_with_retry, batches and the queue; other calls are made once unless
    they get one. `**options` of a call go into the request unchanged: stop, seed, top_p, the engine's own.
    """

    def __init__(
        self,
        endpoint_id: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        default_model: str | None = None,
        *,
        models_by_task: Mapping[str, str] | None = None,
        prices: Mapping[str, TokenPrice] | None = None,
        retry: RetryPolicy | None = None,
        timeout_seconds: float = 600.0,
        queue_limits: Mapping[str, RateLimit] = QUEUE_LIMITS,
        queue_window_seconds: float = RATE_WINDOW_SECONDS,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        settings = ClientSettings.resolve(endpoint_id, api_key, base_url, default_model)
        policy = retry or RetryPolicy()
        connection = Connection(
            provider="runpod",
            endpoint=settings.endpoint,
            base_url=settings.base_url,
            api_key=settings.api_key,
            timeout_seconds=timeout_seconds,
            prices=prices,
            http_client=http_client,
            reads_annotations=True,
        )
        is_runpod = settings.control_url is not None
        EndpointCalls.__init__(self, connection, settings.default_model, policy, is_runpod=is_runpod)
        gate = RateGate(queue_limits, queue_window_seconds)
        BatchQueue.__init__(self, connection, settings.control_url, gate, policy)
        self._models_by_task = dict.fromkeys(TASKS, settings.default_model) | dict(models_by_task or {})

    def select_model_by_task(self, task: str) -> str:
        """Returns the model for "code", "chat", "analysis" or a task of models_by_task. Raises InvalidRequest."""
        if (model := self._models_by_task.get(task)) is None:
            raise InvalidRequest(f"task: expected one of {', '.join(self._models_by_task)}, got {task!r}", param="task")
        return model

    def openai_input(
        self,
        /,
        prompt: str | Iterable[Message],
        model: str | None = None,
        max_tokens: int | None = DEFAULT_MAX_TOKENS,
        temperature: float | None = DEFAULT_TEMPERATURE,
        *,
        key: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Returns the job input for a prompt or a conversation, for `submit` and for batch jobs. Raises InvalidRequest.

        key: comes back in the id of the answer, and so tells which request of a batch job a result belongs to.
        """
        fields = self._given(max_tokens, temperature, options)
        ask = _payload_of(prompt, model or self.default_model, fields)
        if isinstance(ask, ServiceError):
            raise ask
        keyed = {} if key is None else {"request_id": key}
        return {"openai_route": f"/v1{ask.route}", "openai_input": ask.body | keyed}

    def _batch(
        self,
        /,
        prompts: Iterable[str | Iterable[Message]],
        model: str | None = None,
        max_tokens: int | None = DEFAULT_MAX_TOKENS,
        temperature: float | None = DEFAULT_TEMPERATURE,
        *,
        concurrent: int = DEFAULT_CONCURRENT,
        retry: RetryPolicy | None = None,
        file: Path | str | None = None,
        progress: bool | Progress = False,
        **options: Any,
    ) -> Batch:
        fields = self._given(max_tokens, temperature, options)
        asks = [_payload_of(prompt, model or self.default_model, fields) for prompt in prompts]
        return Batch(asks, retry or self._policy, concurrent, file, progress)

    @taking(_batch)
    async def batch_generate(self, batch: Batch) -> list[str]:
        """Returns the texts in the prompts' order. Raises BatchFailed, with all items, if a prompt has no answer."""
        return texts(await self._answer_all(batch.with_one_text()))

    @taking(_batch)
    async def batch(self, batch: Batch) -> list[BatchItem]:
        """Returns an item for each prompt or conversation, in order: its answer, or its own error.

        file: JSON lines, written as items end; a request whose answer is already in it is not made again.
        progress: True for a bar (needs rich), or a function of (done, total).
        """
        return await self._answer_all(batch)

    async def ensemble_generate(
        self,
        /,
        prompt: str,
        models: Iterable[str],
        max_tokens: int | None = DEFAULT_MAX_TOKENS,
        temperature: float | None = DEFAULT_TEMPERATURE,
        *,
        scorer: Scorer = consensus,
        retry: RetryPolicy = ONE_ATTEMPT,
        **options: Any,
    ) -> Ensemble:
        """Sends the prompt to all models at once. Returns all answers, and the best one by the scorer.

        Raises the first model's error if every model failed.
        """
        fields = self._given(max_tokens, temperature, options)
        asks = [Payload.completion(prompt, model, fields) for model in models]
        return await answer_by_each(prompt, asks, lambda ask: self._connection.answer(ask, retry), scorer)

    async def _answer_all(self, batch: Batch) -> list[BatchItem]:
        return await answer_all(
            batch.asks,
            lambda ask: self._connection.answer(ask, batch.policy),
            concurrent=batch.concurrent,
            file=batch.file,
            progress=batch.progress,
        )

    async def close(self) -> None:
        """Closes every connection."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _payload_of(prompt: object, model: str, options: Mapping[str, Any]) -> Payload | ServiceError:
    """Returns the request of a prompt, or its error if it is not valid: one bad prompt must not end the batch."""
    try:
        if isinstance(prompt, str):
            return Payload.completion(prompt, model, options)
        return Payload.chat(prompt, model, options)  # type: ignore[arg-type]  # it is checked there
    except Exception as error:  # also those of a prompt's own methods
        return ours(error, "the prompt")

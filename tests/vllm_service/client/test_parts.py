"""The client's parts alone: settings, waits between attempts, the rate gate, errors from answers and jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_service import RateLimit, RetryPolicy, RunPodVLLMService, errors
from vllm_service.client.errors import from_document, from_job
from vllm_service.client.rate_gate import RateGate
from vllm_service.client.retry import retrying
from vllm_service.client.runpod.jobs import JobStatus, read_chunks, read_job
from vllm_service.client.settings import DEFAULT_MODEL, NO_KEY, ClientSettings

ENVIRONMENT = {"RUNPOD_API_KEY": "key", "RUNPOD_VLLM_ENDPOINT_ID": "abc", "RUNPOD_DEFAULT_MODEL": "mine"}


def test_the_environment_is_enough() -> None:
    settings = ClientSettings.resolve(environment=ENVIRONMENT)
    assert settings.base_url == "https://api.runpod.ai/v2/abc/openai/v1"
    assert settings.control_url == "https://api.runpod.ai/v2/abc"
    assert (settings.endpoint, settings.api_key, settings.default_model) == ("abc", "key", "mine")
    assert "key" not in repr(settings).replace("api_key", "")


def test_what_is_given_goes_first() -> None:
    settings = ClientSettings.resolve("other", "mine", default_model="m", environment=ENVIRONMENT)
    assert (settings.endpoint, settings.api_key, settings.default_model) == ("other", "mine", "m")


def test_a_base_url_needs_neither_endpoint_nor_key_and_may_have_no_queue() -> None:
    settings = ClientSettings.resolve(base_url="http://localhost:8090/v1/", environment={})
    assert (settings.base_url, settings.control_url) == ("http://localhost:8090/v1", None)
    assert (settings.api_key, settings.default_model) == (NO_KEY, DEFAULT_MODEL)


def plain(**given: str | None) -> ClientSettings:
    allowed = given.pop("allowed", None)
    environment = ENVIRONMENT | ({"RUNPOD_ALLOW_PLAIN_HTTP": allowed} if allowed else {})
    if api_url := given.pop("api_url", None):
        environment |= {"RUNPOD_API_URL": api_url}
    return ClientSettings.resolve(environment=environment, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"api_url": "http://api.runpod.test"},
        {"base_url": "http://10.0.0.7/v2/abc/openai/v1"},
        {"base_url": "http://10.0.0.7/v2/abc/openai/v1", "api_key": "another"},
        {"base_url": "http://gateway:8090/v1"},  # it would get RunPod's key, since none of its own is given
    ],
)
def test_runpods_key_goes_over_http_to_no_other_machine_unless_that_is_wanted(given: dict[str, str]) -> None:
    with pytest.raises(errors.ConfigurationError, match="RUNPOD_ALLOW_PLAIN_HTTP=true"):
        plain(**given)
    with pytest.raises(errors.ConfigurationError, match="over http"):
        plain(allowed="false", **given)
    assert plain(allowed="true", **given).api_key in ("key", "another")


def test_a_key_over_plain_http_is_refused_where_the_address_stands_with_a_remedy_that_works() -> None:
    with pytest.raises(errors.ConfigurationError) as of_runpod:
        plain(api_url="http://api.runpod.test")
    with pytest.raises(errors.ConfigurationError) as of_gateway:
        plain(base_url="http://gateway:8090/v1")
    assert (of_runpod.value.param, of_gateway.value.param) == ("RUNPOD_API_URL", "base_url")
    assert "api_key" not in of_runpod.value.message, "RunPod's API takes no other key"
    assert "pass the key of that server as api_key" in of_gateway.value.message
    assert plain(base_url="http://gateway:8090/v1", api_key="its own").api_key == "its own"


def test_a_gateways_own_key_over_http_is_logged_and_what_stays_here_is_not(caplog: pytest.LogCaptureFixture) -> None:
    plain(base_url="http://127.0.0.1:8090/v1")
    plain(api_url="http://localhost:8000")
    plain(base_url="https://gateway.test/v1")
    ClientSettings.resolve(base_url="http://gateway:8090/v1", environment={})  # without a key
    assert caplog.messages == []
    plain(base_url="http://gateway:8090/v1", api_key="vs_gateways")
    (message,) = caplog.messages
    assert message.startswith("base_url is http")
    assert "vs_gateways" not in message


@pytest.mark.parametrize("missing", ["RUNPOD_API_KEY", "RUNPOD_VLLM_ENDPOINT_ID"])
def test_what_is_missing_is_named(missing: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=missing):
        ClientSettings.resolve(environment={name: value for name, value in ENVIRONMENT.items() if name != missing})


async def test_a_server_without_a_queue_says_so() -> None:
    async with RunPodVLLMService(base_url="http://127.0.0.1:1/v1") as service:
        with pytest.raises(errors.ConfigurationError, match="native queue"):
            await service.submit({"prompt": "x"})


@pytest.mark.parametrize("url", ["localhost:8090/v1", "ftp://host/v1", "http://", "http://host:port/v1", "http://[::1"])
def test_a_base_url_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="base_url"):
        RunPodVLLMService(base_url=url)


@pytest.mark.parametrize(
    "options",
    [{"attempts": 0}, {"wait_min_seconds": 3, "wait_max_seconds": 2}, {"jitter_seconds": -1}, {"total_seconds": 0}],
)
def test_a_retry_policy_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError):
        RetryPolicy(**options)


class Slept:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


async def waits(policy: RetryPolicy, retry_after: float | None = None) -> list[float]:
    """The waits between the attempts of a call that keeps failing."""
    slept = Slept()

    async def attempt(number: int) -> None:
        raise errors.RateLimited("no", retry_after_seconds=retry_after)

    with pytest.raises(errors.RateLimited):
        await retrying(attempt, policy, sleep=slept.sleep)
    return slept.waits


async def test_waits_double_between_two_and_ten_seconds() -> None:
    assert await waits(RetryPolicy(attempts=6, jitter_seconds=0)) == [2, 4, 8, 10, 10]


async def test_jitter_is_added_within_the_longest_wait() -> None:
    first, second, third = await waits(RetryPolicy(attempts=4))
    assert 2 <= first <= 3
    assert 4 <= second <= 5
    assert 8 <= third <= 9


async def test_retry_after_is_a_lower_bound_of_the_wait() -> None:
    assert await waits(RetryPolicy(jitter_seconds=0), retry_after=3) == [3, 4]
    assert await waits(RetryPolicy(jitter_seconds=0), retry_after=15) == [15, 15]


async def test_a_gate_lets_so_many_by_in_any_window() -> None:
    slept = Slept()
    gate = RateGate({"run": RateLimit(3, 10)}, 10.0, slept.clock, slept.sleep)
    entered = []
    for _ in range(8):
        async with gate.admitted("run"):
            entered.append(slept.now)
        async with gate.admitted("free"):
            slept.now += 1
    for first, fourth in zip(entered, entered[3:], strict=False):
        assert fourth - first >= 10


def test_a_failed_jobs_text_is_the_error_the_engine_gave() -> None:
    body = {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
    error = from_job(json.dumps({"error": body, "status": 404, "retryable": False}), "ep")
    assert isinstance(error, errors.NotFound)
    assert (error.message, error.param, error.endpoint) == (body["message"], "model", "ep")


@pytest.mark.parametrize("text", ["worker crashed", None, "[1]", '{"error": "x", "status": 7}', "{"])
def test_a_failed_job_that_says_nothing_in_json_is_a_500(text: str | None) -> None:
    error = from_job(text, "ep")
    assert (error.status_code, error.is_transient) == (500, True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 409, 413, 418, 422, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("body", [None, "text", [], {"error": {"message": "m", "param": 1}}, {"message": "m"}])
def test_every_status_has_its_error(status: int, body: object) -> None:
    error = from_document(status, body)
    assert error.status_code == status
    assert error.is_transient == (status in (408, 409, 429) or status >= 500)
    assert error.message


@pytest.mark.parametrize(
    "document", [None, [], {}, {"id": "x"}, {"id": 1, "status": "FAILED"}, {"id": "x", "status": []}]
)
def test_what_is_no_job_is_an_upstream_error(document: object) -> None:
    with pytest.raises(errors.UpstreamFailed):
        read_job(document)


def test_fields_that_the_platform_adds_or_leaves_out_do_no_harm() -> None:
    job = read_job({"id": "x", "status": "COMPLETED", "executionTime": 3.6, "error": {"a": 1}, "new": True})
    assert (job.status, job.execution_ms, job.error_text) == (JobStatus.COMPLETED, 4, "{'a': 1}")
    assert read_job({"id": "x", "status": "COMPLETED", "executionTime": float("nan")}).execution_ms is None
    assert read_chunks({"stream": [{"output": 1}, {}, 3]}) == [1]
    assert read_chunks({}) == []

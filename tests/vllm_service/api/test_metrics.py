"""GET /metrics: what docs/metrics.md lists is what comes out, exact where counted, bounded whatever callers send."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
import yaml
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from tests.vllm_service.api.service import KEY, REQUEST, OneKey, dependencies, served, statuses
from vllm_service.api.metrics import FAMILIES
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.requests import Outcome
from vllm_service.domain.roles import Role
from vllm_service.domain.spend import ProviderSpend, SpendLine, SpendPart
from vllm_service.domain.status import (
    BreakersState,
    CacheState,
    Circuit,
    DaySpend,
    KeysState,
    LedgerState,
    LogState,
    LoopState,
    PoolsState,
    PoolState,
    ProviderCircuit,
    QualityState,
    QuotaState,
    ServerState,
    SessionsState,
    SpentState,
    WorkerSlotState,
    WorkersState,
    WorkerState,
)

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "metrics.md"
LINES = (
    SpendLine(SpendPart.EXECUTION, CostBasis.BOOKED, 5 * 10**10),
    SpendLine(SpendPart.IDLE, CostBasis.BILLED, 45 * 10**10),
)
FULL = statuses(
    ServerState(True, in_flight=7, connections=9, buffered_bytes=10, refusals={"UNAUTHORIZED_401": 11}),
    BreakersState({"hosted": ProviderCircuit(Circuit.OPEN, 5, 2)}),
    WorkersState({"runpod": WorkerState(1, 2, 3, 4, 5, 6, {"NVIDIA A40": 7}, 8, 9, 10, 2, "why", 0.125)}),
    PoolsState({"hosted": PoolState(3, 8, 2, 1), "https://x.test": PoolState(1, 4, 0, 0)}),
    CacheState(3, 1, 2, 1000, 0),
    LedgerState(4, 100, 0, oldest_queued_seconds=0.1, dropped=3, refused=2, refusal="no column"),
    QuotaState(2, 0),
    KeysState(),
    LoopState(0.001, 0.25),
    LogState(0, 7),
    WorkerSlotState(2, 4, 1),
    QualityState({"llama": 0.9}),
    SessionsState(0),
    SpentState(
        (
            DaySpend("today", ProviderSpend("runpod", 2, LINES, baseline_picousd=10**12)),
            DaySpend("today", ProviderSpend("gone", 2, LINES[:1])),
            DaySpend("yesterday", ProviderSpend("hosted", 1, LINES[:1])),
        )
    ),
)
AGREED_NAMES = {
    "vllm_requests_total",
    "vllm_request_duration_seconds",
    "vllm_latency_target_met_total",
    "vllm_tokens_generated_total",
    "vllm_cost_savings_usd",
    "vllm_apple_silicon_requests_total",
    "vllm_quality_score",
    "vllm_cache_hits_total",
    "vllm_cache_hit_rate",
    "vllm_circuit_breaker_open_total",
}


class Scraped:
    """A scrape, parsed by Prometheus' own parser."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.types = {family.name + ("_total" if family.type == "counter" else ""): family.type for family in families}
        self.labels = {
            family.name + ("_total" if family.type == "counter" else ""): {
                frozenset(sample.labels) - {"le"} for sample in family.samples
            }
            for family in families
        }
        self._values = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self._values[(name, *sorted(labels.items()))]


def scraped(service: object = None) -> Scraped:
    with served(service or dependencies(FULL)) as address:  # type: ignore[arg-type]
        return Scraped(httpx.get(f"{address}/metrics").text)


def documented() -> dict[str, tuple[str, str, str]]:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    return {name: (kind, labels.strip(), meaning.strip()) for name, kind, labels, meaning in rows}


def test_the_page_and_the_output_hold_the_same_families() -> None:
    families = {
        family.name: (family.kind, ", ".join(f"`{label}`" for label in family.labels), family.meaning)
        for family in FAMILIES
    }
    assert documented() == families
    assert scraped().types == {name: kind for name, (kind, _, _) in families.items()}


def test_there_are_at_least_47_and_those_that_users_rely_on_are_among_them() -> None:
    assert len({family.name for family in FAMILIES}) >= 47
    assert {family.name for family in FAMILIES} >= AGREED_NAMES


def test_samples_carry_exactly_the_documented_labels() -> None:
    service = dependencies(FULL)
    service.measurements.record(REQUEST)
    service.measurements.record(replace(REQUEST, outcome=Outcome.FAILED, status=503, error_code="MODEL_503"))
    labels = scraped(service).labels
    assert {family.name: labels[family.name] for family in FAMILIES} == {
        family.name: {frozenset(family.labels)} for family in FAMILIES
    }


def test_what_is_counted_is_exact() -> None:
    service = dependencies(FULL)
    for milliseconds in (2.0, 50.0, 50.1, 250.0):
        service.measurements.record(replace(REQUEST, total_ms=milliseconds, cost_basis=CostBasis.BOOKED))
    service.measurements.record(replace(REQUEST, model="org/sql", cost_basis=CostBasis.EXPECTED))
    metrics = scraped(service)
    assert metrics.value("vllm_requests_total", model="llama", status="200") == 4
    assert metrics.value("vllm_request_duration_seconds_bucket", model="llama", le="0.05") == 2
    assert metrics.value("vllm_request_duration_seconds_bucket", model="llama", le="+Inf") == 4
    assert metrics.value("vllm_tokens_generated_total", model="llama") == 80
    assert metrics.value("vllm_latency_target_met_total", model="llama") == 3
    assert metrics.value("vllm_expected_savings_usd", model="llama") == 12e-6
    for model, expected_usd, booked_usd in (("llama", 0, 28e-6), ("org/sql", 7e-6, 0)):
        assert metrics.value("vllm_cost_usd_total", model=model, basis="expected") == pytest.approx(expected_usd)
        assert metrics.value("vllm_cost_usd_total", model=model, basis="booked") == pytest.approx(booked_usd)
    assert metrics.value("vllm_provider_cost_usd_total", provider="hosted", basis="expected") == pytest.approx(7e-6)
    assert metrics.value("vllm_provider_cost_usd_total", provider="hosted", basis="booked") == pytest.approx(28e-6)
    assert metrics.value("vllm_cache_hit_rate") == 0.75
    assert metrics.value("vllm_circuit_breaker_open_total", provider="hosted") == 2
    assert metrics.value("vllm_provider_up", provider="hosted") == 0
    assert metrics.value("vllm_provider_connections", provider="hosted") == 3
    assert metrics.value("vllm_provider_connections_limit", provider="hosted") == 8
    assert metrics.value("vllm_provider_queue_requests", provider="hosted") == 2
    assert metrics.value("vllm_provider_queue_refusals_total", provider="hosted") == 1
    assert metrics.value("vllm_requests_in_flight") == 7
    assert (metrics.value("vllm_connections"), metrics.value("vllm_buffered_bytes")) == (9, 10)
    assert metrics.value("vllm_refusals_total", code="UNAUTHORIZED_401") == 11
    assert metrics.value("vllm_worker_cost_usd_total", provider="runpod") == 0.125
    assert metrics.value("vllm_workers_max", provider="runpod") == 2
    assert metrics.value("vllm_workers_scaled_down", provider="runpod") == 1


def test_what_a_day_cost_is_told_by_part_and_basis_and_savings_count_all_of_it() -> None:
    metrics = scraped()

    def spent(day: str, provider: str, part: str, basis: str) -> float:
        return metrics.value("vllm_spend_usd", day=day, provider=provider, part=part, basis=basis)

    assert spent("today", "runpod", "execution", "booked") == 0.05
    assert spent("today", "runpod", "idle", "billed") == 0.45
    assert spent("today", "other", "execution", "booked") == 0.05
    assert spent("yesterday", "hosted", "execution", "booked") == 0.05
    assert metrics.value("vllm_spend_baseline_usd", day="today") == 1
    assert metrics.value("vllm_cost_savings_usd", day="today") == 0.45
    with pytest.raises(KeyError):
        metrics.value("vllm_cost_savings_usd", day="yesterday")


def test_an_unknown_value_is_no_sample_and_never_zero() -> None:
    metrics = scraped(dependencies())
    assert metrics.labels["vllm_cache_hit_rate"] == set()
    assert metrics.labels["vllm_quality_score"] == set()


def test_whatever_callers_and_providers_send_the_labels_stay_few() -> None:
    service = dependencies()
    for index in range(2000):
        service.measurements.record(
            replace(REQUEST, model=f"m{index}", provider=f"p{index}", status=index, error_code=f"E{index}")
        )
    metrics = scraped(service)
    assert metrics.value("vllm_requests_total", model="other", status="other") == 1500
    assert metrics.value("vllm_errors_total", code="other") == 2000
    with served(service) as address:
        assert len(httpx.get(f"{address}/metrics").text.splitlines()) < 1200


def test_metrics_are_served_and_need_a_key_as_they_are_told() -> None:
    with served(dependencies(keys=OneKey(), metrics_need_key=False)) as address:
        assert httpx.get(f"{address}/metrics").status_code == 200
    with served(dependencies(serves_metrics=False)) as address:
        assert httpx.get(f"{address}/metrics").status_code == 404
    with served(dependencies(keys=OneKey(Role.VIEWER))) as address:
        assert httpx.get(f"{address}/metrics").status_code == 401
        assert httpx.get(f"{address}/metrics", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def expressions() -> list[str]:
    """Every expression of the alerts, the dashboard and the documentation."""
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus-rules.yml").read_text(encoding="utf-8"))
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "gateway.json").read_text(encoding="utf-8"))
    return [
        *(rule["expr"] for rule in rules["groups"][0]["rules"]),
        *(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]),
        *re.findall(r"```promql\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL),
    ]


def test_the_example_scrapes_alerts_and_draws_families_that_exist() -> None:
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    assert scrape["scrape_configs"][0]["metrics_path"] == "/metrics"
    assert scrape["rule_files"] == ["prometheus-rules.yml"]
    named = {
        name.removesuffix("_bucket") for text in expressions() for name in re.findall(r"(?:vllm|process)_\w+", text)
    }
    assert len(named) > 15
    assert named <= {family.name for family in FAMILIES}


#: Of a thing outside the gateway, or of the configuration: each replica's sample is of the whole of it.
SEEN_WHOLE = re.compile(r"vllm_(?:workers_|worker_jobs_|circuit_breaker_(?:state|failures)|provider_up|catalog_)\w*")


def test_what_every_replica_sees_whole_is_never_added_up() -> None:
    seen = [text for text in expressions() if SEEN_WHOLE.search(text)]
    assert len(seen) >= 5
    assert [text for text in seen if not re.fullmatch(r"max by \(provider\) \(vllm_\w+\)( == \d)?", text)] == []


def test_what_a_replica_counts_of_its_own_requests_is_added_up() -> None:
    """Without `sum` a panel would have a line, and an alert a message, for each replica."""
    counted = [text for text in expressions() if re.search(r"vllm_\w+_total|_bucket", text) and "ledger" not in text]
    assert len(counted) >= 8
    assert [text for text in counted if "sum" not in text] == []

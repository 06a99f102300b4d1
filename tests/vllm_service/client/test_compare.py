"""Comparing costs: the documents' example with right arithmetic, unknown prices, measurements, the command."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.e2e import process
from tests.vllm_service.storage.ledger.test_ledger import RECORD
from vllm_service import Answer, Offering, TokenPrice, Usage, compare_costs, errors
from vllm_service.__main__ import main
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.client.compare import DOCUMENTED_EXAMPLE, Measurement, offerings_of, with_measurements
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.money import picousd
from vllm_service.domain.pricing import SecondPrice
from vllm_service.storage.open import open_storage


def test_ten_million_tokens_at_two_cents_per_million_are_twenty_cents() -> None:
    runpod, cerebras = compare_costs(DOCUMENTED_EXAMPLE).rows
    assert (runpod.offering.provider, cerebras.offering.provider) == ("RunPod", "Cerebras")
    assert (runpod.monthly_picousd, cerebras.monthly_picousd) == (picousd("0.20"), picousd("1.00"))
    assert (runpod.savings_picousd, runpod.savings_percentage) == (picousd("0.80"), 80.0)
    assert (runpod.offering.latency_ms, cerebras.offering.latency_ms) == (1200.0, 945.0)
    assert all("documents" in (row.offering.source or "") for row in (runpod, cerebras))


def test_input_and_output_have_their_own_prices() -> None:
    (row,) = compare_costs(
        [Offering("p", "m", TokenPrice.per_million(1, 10))], monthly_tokens=1_000_001, output_share=0.1
    ).rows
    assert row.monthly_picousd == 900_001 * 10**6 + 100_000 * 10**7


def test_an_unknown_price_is_null_and_comes_last() -> None:
    comparison = compare_costs([Offering("own", "m", None), *DOCUMENTED_EXAMPLE], baseline="RunPod")
    assert [row.offering.provider for row in comparison.rows] == ["RunPod", "Cerebras", "own"]
    assert comparison.rows[1].savings_percentage == -400.0
    unknown = comparison.rows[2].to_json()
    assert unknown["usd_per_million_tokens"] == {"input": None, "output": None, "is_estimate": False}
    assert unknown["monthly_usd"] is unknown["savings_usd"] is unknown["savings_percentage"] is None
    assert compare_costs([Offering("own", "m", None)]).baseline is None


def test_measurements_are_medians_of_what_was_answered() -> None:
    answers = [Answer("x", "m", "p", Usage(1, 50), None, latency) for latency in (500.0, 1000.0, 2000.0)]
    measured, other = with_measurements([Offering("p", "m", None), Offering("q", "m", None)], answers)
    assert (measured.latency_ms, measured.tokens_per_second) == (1000.0, 50.0)
    assert (other.latency_ms, other.tokens_per_second) == (None, None)


def test_offerings_are_those_of_the_catalog() -> None:
    price = TokenPrice.per_million(1, 2)
    model = PublicModel("m", (Offer("own", "org/m"), Offer("hosted", "m-8b", price)))
    catalog = Catalog({}, {"m": model, "alias": model})
    assert offerings_of(catalog, "alias") == [Offering("own", "org/m", None), Offering("hosted", "m-8b", price)]
    with pytest.raises(errors.InvalidRequest, match="alias, m"):
        offerings_of(catalog, "x")


OWN = Provider(
    "own",
    ProviderKind.RUNPOD,
    "http://127.0.0.1:1/openai/v1",
    second_price=SecondPrice.per_second("0.00031"),
    expected=(("slots", 32.0), ("decode_seconds", 0.011), ("decode_seconds_per_batch", 0.0003)),
)


def own_offering() -> Offering:
    model = PublicModel("m", (Offer("own", "org/m"),))
    (offering,) = offerings_of(Catalog({"own": OWN}, {"m": model}), "m")
    return offering


def test_an_own_endpoint_has_the_price_of_tokens_in_full_workers() -> None:
    offering = own_offering()
    assert offering.is_estimate
    assert offering.price is not None
    # 32 answers share 0.011 + 32 x 0.0003 = 0.0206 s: a token takes 0.00064375 s of 0.00031 dollars a second.
    assert offering.price.output_picousd == 199_563
    # A prompt's token takes 0.7 / 8000 s.
    assert offering.price.input_picousd == 27_125
    assert "paid by the second" in (offering.source or "")


def test_what_the_ledger_has_booked_moves_the_estimate() -> None:
    offering = own_offering()
    assert offering.price is not None
    usage = Usage(1000, 100)
    twice = 2 * offering.price.cost_picousd(usage)
    expected = Measurement("own", "org/m", 900.0, 100, usage, twice, CostBasis.EXPECTED)
    booked = Measurement("own", "org/m", 900.0, 100, usage, twice, CostBasis.BOOKED)
    (measured,) = with_measurements([offering], [expected, booked, booked])
    assert measured.price == TokenPrice(2 * 27_125, 2 * 199_563)
    assert measured.source is not None
    assert measured.source.endswith("of the last week, 2 booked, 1 expected")
    (unknown,) = with_measurements([offering], [Measurement("own", "org/m", 900.0, 100, usage, None)])
    assert unknown.price == offering.price


@pytest.mark.parametrize("options", [{"monthly_tokens": -1}, {"output_share": 1.5}, {"baseline": "nobody"}])
def test_what_cannot_be_compared_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(errors.InvalidRequest):
        compare_costs(DOCUMENTED_EXAMPLE, **options)  # type: ignore[arg-type]


def test_the_command_prints_the_documents_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--example"]) == 0
    table = capsys.readouterr().out
    assert "not measured here" in table
    (line,) = [line for line in table.splitlines() if "RunPod" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["RunPod", "Llama-3.1-8B", "0.0200", "0.0200", "1,200", "-", "0.20", "0.80", "80.0"]


def test_the_command_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--example", "--json", "--monthly-tokens", "100M", "--output-share", "0.25"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["monthly_tokens"] == {"input": 75_000_000, "output": 25_000_000}
    assert document["baseline"] == "Cerebras"
    assert document["providers"][0]["monthly_usd"] == 2.0
    assert document["providers"][0]["tokens_per_second"] is None


PROVIDERS = """
providers:
  own: {endpoint_id: ep, api_url: 'http://127.0.0.1:1'}
  hosted: {base_url: 'http://127.0.0.1:1/v1', prices: {m-8b: {input: 0.1, output: 0.2, as_of: 2026-11-21}}}
"""
MODELS = "models:\n  m:\n    offers: [{provider: own, model: org/m}, {provider: hosted, model: m-8b}]\n"


async def test_the_command_compares_what_is_configured_and_was_measured(tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text(PROVIDERS)
    (tmp_path / "models.yaml").write_text(MODELS)
    where = {"CONFIG_DIR": str(tmp_path), "DATA_DIR": str(tmp_path)}
    async with open_storage(None, None, tmp_path) as storage:
        for number, total_ms in enumerate((500.0, 1000.0, 4000.0)):
            answered = replace(RECORD, request_id=str(number), started_at=time.time(), total_ms=total_ms)
            storage.ledger.record(replace(answered, provider="hosted", upstream_model="m-8b", usage=Usage(3, 50)))
    ended = await process.run("-m", "vllm_service", "compare", "--json", "--model", "m", "--measured", **where)
    hosted, own = json.loads(ended.stdout)["providers"]
    assert (hosted["monthly_usd"], hosted["latency_ms"], hosted["tokens_per_second"]) == (1.5, 1000.0, 50.0)
    assert (own["provider"], own["monthly_usd"], own["latency_ms"]) == ("own", None, None)
    refused = await process.run("-m", "vllm_service", "compare", "--model", "x", **where)
    assert (refused.code, refused.stdout) == (1, "")
    assert "expected one of m" in refused.stderr


def test_wrong_tokens_are_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--monthly-tokens", "many"])
    assert caught.value.code == 2
    assert "10M" in capsys.readouterr().err


def test_a_share_beyond_1_is_a_wrong_argument_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--example", "--output-share", "7"])
    assert caught.value.code == 2
    assert "argument --output-share: expected a number from 0 to 1, got '7'" in capsys.readouterr().err

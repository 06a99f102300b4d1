"""Labels as the ledger keeps them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.errors import InvalidRequest
from vllm_service.gateway.labels import labels_in, labels_text


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"b": "2", "a": "1"}, '{"a":"1","b":"2"}', id="names in order: equal labels are equal texts"),
        pytest.param({"team": "Größe"}, '{"team":"Größe"}', id="no escapes where none are needed"),
        pytest.param({"a": ""}, '{"a":""}', id="an empty value"),
        pytest.param({"a": 'say "x"'}, '{"a":"say \\"x\\""}', id="quotes"),
    ],
)
def test_labels_are_one_json_object(labels: dict[str, str], text: str | None) -> None:
    assert labels_text(labels) == text
    assert labels_in(text) == labels


@given(st.dictionaries(st.text(min_size=1, max_size=64), st.text(max_size=512), max_size=16))
def test_labels_within_the_bounds_come_back(labels: dict[str, str]) -> None:
    assert labels_in(labels_text(labels)) == labels


@pytest.mark.parametrize(
    ("labels", "param"),
    [
        pytest.param({str(number): "" for number in range(17)}, "labels", id="17 of them"),
        pytest.param({"": "a"}, "labels", id="no name"),
        pytest.param({"n" * 65: "a"}, "labels", id="a long name"),
        pytest.param({"a": "v" * 513}, "labels.a", id="a long value"),
        pytest.param({"a": 1}, "labels.a", id="a number"),
        pytest.param({"a": None}, "labels.a", id="null"),
        pytest.param({1: "a"}, "labels", id="a name that is a number"),
    ],
)
def test_what_is_no_label_is_named(labels: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        labels_text(labels)
    assert refused.value.param == param


def test_the_bounds_are_openai_s_of_metadata() -> None:
    assert labels_text({f"{number:064}": "v" * 512 for number in range(16)}) is not None

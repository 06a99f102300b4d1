"""Whose address counts: forged headers from strangers do not, chains of trusted proxies do."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.http.addresses import ClientAddresses

PROXIES = ClientAddresses([ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.1")])


def of(peer: str, *forwarded: str, addresses: ClientAddresses = PROXIES) -> str | None:
    return addresses.of(peer, [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded])


def test_a_strangers_header_is_ignored() -> None:
    assert of("203.0.113.7", "198.51.100.1") == "203.0.113.7"
    assert of("2001:db8::7", "198.51.100.1") == "2001:db8::/64"


def test_without_trusted_proxies_nobody_is_believed() -> None:
    nobody = ClientAddresses()
    assert of("10.0.0.1", "198.51.100.1", addresses=nobody) == "10.0.0.1"
    assert of("127.0.0.1", "198.51.100.1", addresses=nobody) == "127.0.0.1"


def test_a_trusted_proxy_says_for_whom_it_asks() -> None:
    assert of("10.0.0.1", "198.51.100.1") == "198.51.100.1"
    assert of("10.0.0.1", "2001:db8::1") == "2001:db8::/64"
    assert of("fd00::1", "2001:db8::1") == "2001:db8::/64"
    assert of("10.0.0.1") == "10.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (["6.6.6.6, 198.51.100.1"], "198.51.100.1"),  # what the caller itself wrote stands further left
        (["6.6.6.6, 198.51.100.1, 10.9.9.9, fd00::2"], "198.51.100.1"),
        (["6.6.6.6", "198.51.100.1, 10.9.9.9"], "198.51.100.1"),  # two headers are one list
        (["10.1.1.1, 10.2.2.2"], "10.0.0.1"),  # nobody but proxies
        (["198.51.100.1, , 10.2.2.2,"], "198.51.100.1"),
    ],
)
def test_a_chain_is_read_from_the_right_up_to_the_first_that_is_no_proxy(forwarded: list[str], expected: str) -> None:
    assert of("10.0.0.1", *forwarded) == expected


@pytest.mark.parametrize("junk", ["unknown", "_hidden", "198.51.100.1; DROP", "999.1.1.1", "é" * 40, "1" * 10_000])
def test_junk_ends_the_search_and_nothing_left_of_it_counts(junk: str) -> None:
    assert of("10.0.0.1", f"6.6.6.6, {junk}") == "10.0.0.1"
    assert of("10.0.0.1", f"6.6.6.6, {junk}, 198.51.100.1") == "198.51.100.1"


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("198.51.100.1:52110", "198.51.100.1"),
        ("[2001:db8::1]:52110", "2001:db8::/64"),
        ("[2001:db8::1]", "2001:db8::/64"),
        ("2001:0DB8:0000::0001", "2001:db8::/64"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
    ],
)
def test_one_address_counts_as_one_however_a_proxy_writes_it(written: str, address: str) -> None:
    assert of("10.0.0.1", written) == address


def test_a_proxy_of_ipv4_is_trusted_on_a_socket_of_ipv6() -> None:
    assert of("::ffff:10.0.0.1", "198.51.100.1") == "198.51.100.1"
    assert of("::ffff:203.0.113.7", "198.51.100.1") == "203.0.113.7"


def test_a_unix_socket_has_no_address() -> None:
    assert of("", "198.51.100.1") is None


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8::7", "2001:db8::/64"),
        ("2001:0db8:0:0::7", "2001:db8::/64"),
        # One customer has at least a /64, and may use any address of it.
        ("2001:db8::ffff:1:2:3", "2001:db8::/64"),
        ("2001:db8:0:1::7", "2001:db8:0:1::/64"),
        ("::1", "::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("", None),
        ("a:socket", None),
    ],
)
def test_a_connections_own_address_has_one_spelling(peer: str, address: str | None) -> None:
    assert of(peer, addresses=ClientAddresses()) == address


@pytest.mark.parametrize("forwarded", ["", ",", " , ,, "])
def test_an_empty_list_says_nothing(forwarded: str) -> None:
    assert of("10.0.0.1", forwarded) == "10.0.0.1"


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("\t198.51.100.1 ", "198.51.100.1"),
        ("198.51.100.1:0", "198.51.100.1"),
        ("198.51.100.1:99999", "198.51.100.1"),
        ("198.51.100.1:", "10.0.0.1"),
        ("198.51.100.1:999999", "10.0.0.1"),
        ("198.51.100.01", "10.0.0.1"),  # octal to some
        ("[2001:db8::1]:", "10.0.0.1"),
        ("[198.51.100.1]", "198.51.100.1"),
        ("[::ffff:198.51.100.1]:80", "198.51.100.1"),
        ("2001:db8::1" + " " * 60, "2001:db8::/64"),
        ("2001:db8::1%".ljust(64, "e"), "2001:db8::/64"),
        ("2001:db8::1%".ljust(65, "e"), "10.0.0.1"),
    ],
)
def test_an_address_with_a_port_or_in_brackets(written: str, address: str) -> None:
    assert of("10.0.0.1", written) == address


def test_other_headers_are_not_looked_at() -> None:
    headers = [(b"x-real-ip", b"6.6.6.6"), (b"x-forwarded-for", b"198.51.100.1"), (b"forwarded", b"for=6.6.6.6")]
    assert PROXIES.of("10.0.0.1", headers) == "198.51.100.1"


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_whatever_a_proxy_writes_the_client_is_an_address(values: list[bytes]) -> None:
    address = PROXIES.of("10.0.0.1", [(b"x-forwarded-for", value) for value in values])
    assert address is not None
    ip_network(address)

"""Decides at the end of a request's head, before its body is read, whether it may go on and how much it may send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from vllm_service.domain.keys import ApiKey
from vllm_service.domain.quotas import Limit, try_again
from vllm_service.domain.urls import is_name_of_no_site, is_page_of_this_machine
from vllm_service.errors import (
    Forbidden,
    InvalidRequest,
    RateLimited,
    StorageUnavailable,
    key_needed,
    key_unknown,
)
from vllm_service.http.addresses import AddressLimits, AddressRecord, AddressTable, ClientAddresses
from vllm_service.http.messages import Caller
from vllm_service.storage.protocol import Keys, RememberedKey

#: Two of one of these contradict each other, and two readers of the request may take different ones.
_ONLY_ONCE = frozenset((b"authorization", b"proxy-authorization", b"x-api-key", b"api-key", b"host"))


@dataclass(frozen=True, slots=True)
class Paths:
    """The targets, without their query, that are treated in a way of their own."""

    #: Those that take a large body, by POST, and need a key; None: all do, by any method.
    operations: Container[bytes] | None = None
    #: Answered even to an address whose requests are used up. The answer has to be as cheap as a refusal.
    always: Container[bytes] = ()


#: How long keys are kept by their headers, at most.
KEPT_SECONDS = 3.0


class HeadCheck:
    """The address's limits come first, on every path; then the key, which is in memory for all but its first request.

    keys: None lets every caller in as `anonymous`, but for other sites' pages. clock: the event loop's. is_local: only
    this machine reaches the server, so that without keys a request under another site's name is such a page's.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        keys: Keys | None = None,
        anonymous: ApiKey | None = None,
        addresses: ClientAddresses | None = None,
        limits: AddressLimits | None = None,
        paths: Paths | None = None,
        is_local: bool = True,
    ) -> None:
        self._clock = clock
        self._keys = keys
        self._anonymous = anonymous
        self._addresses = addresses or ClientAddresses()
        self.table = AddressTable(limits or AddressLimits())
        self._limits = limits or AddressLimits()
        self._paths = paths or Paths()
        self._is_local = is_local
        #: The last Host header that was found good, which is nearly always that of the next request too.
        self._good_host: bytes | None = None
        #: Refused requests and connections by error code, of all that were refused without a row in the ledger.
        self.refusals: Counter[str] = Counter()
        #: Keys by the whole header, each with the loop's time at which it would be looked up again. They are forgotten
        #: together: secrets are not to lie in memory for long.
        self._kept: dict[bytes, tuple[ApiKey, float]] = {}
        self._kept_until = 0.0

    def connected(self, peer: str) -> tuple[AddressRecord | None, bool]:
        """Returns the record of a connection's own address, None where it has none, and whether it is a proxy's."""
        address = self._addresses.of(peer, ())
        return None if address is None else self.table.record(address), self._addresses.is_proxy(peer)

    def behind(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> AddressRecord | None:
        """Returns the record of the client that a proxy sends this request for."""
        address = self._addresses.of(peer, headers)
        return None if address is None else self.table.record(address)

    def refuse_too_many(self, target: bytes, wait_seconds: float) -> None:
        """Raises RateLimited for a request beyond its address's limit, unless its path is always answered.

        Such an answer must be its connection's last, so that a flood gets no further than with refusals.
        """
        if target not in self._paths.always:
            raise self._too_many_requests(wait_seconds)

    def caller(
        self,
        record: AddressRecord | None,
        method: bytes,
        target: bytes,
        headers_by_name: dict[bytes, bytes],
        now: float,
    ) -> Caller:
        """Returns the caller of a request; `secret` is set where its key is to be looked up before anything else.

        A request with the same `head` has the same caller `until` its time is over, and need not be checked.
        Raises Unauthorized, Forbidden for another site's page, RateLimited after too many wrong keys of this address.
        """
        address = None if record is None else record.name
        operations = self._paths.operations
        needs_key = operations is None or (
            method == b"POST" and (target in operations or (b"?" in target and target.partition(b"?")[0] in operations))
        )
        if self._keys is None:
            self._check_site(headers_by_name)
            return Caller(record, self._anonymous, None, needs_key, address)
        authorization = headers_by_name.get(b"authorization")
        kept = self._kept.get(authorization or b"")
        if kept is not None and now < kept[1]:
            head = (record, method, target, authorization)
            return Caller(record, kept[0], None, needs_key, address, kept[1], head)
        if authorization is None or authorization[:7].lower() != b"bearer ":
            if needs_key:
                raise key_needed()
            return Caller(record, None, None, False, address)
        secret = authorization[7:].strip().decode("latin-1")
        remembered = self._keys.remembered(secret)
        if remembered is not None:
            if remembered.fresh_seconds > 0:
                self._keep(authorization, remembered, now)
            return Caller(record, remembered.key, None, needs_key, address)
        if record is not None and (wait := record.wrong_keys.wait(now)) and not self._keys.is_known(secret):
            raise _too_many_keys(wait)
        return Caller(record, None, secret, needs_key, address)

    def _check_site(self, headers_by_name: dict[bytes, bytes]) -> None:
        """Raises Forbidden for a request of another site's page, or under another site's name."""
        _refuse_other_sites(headers_by_name)
        host = headers_by_name.get(b"host")
        if host != self._good_host and host is not None and self._is_local:
            _refuse_other_names(host)
            self._good_host = host

    def _keep(self, authorization: bytes, remembered: RememberedKey, now: float) -> None:
        """Keeps a key by its header until it would be looked up again: the next request need not hash its secret."""
        if not now < self._kept_until:
            self._kept.clear()
            self._kept_until = now + KEPT_SECONDS
        self._kept[authorization] = remembered.key, now + remembered.fresh_seconds

    async def identify(self, caller: Caller) -> None:
        """Looks the caller's key up and sets it. Raises Unauthorized, RateLimited, StorageUnavailable.

        A path that works without a key goes on without one: the application behind it looks at the key itself.
        """
        secret = caller.secret
        if secret is None:
            return
        try:
            caller.key = await self._found(secret, caller.record)
        except StorageUnavailable:
            if caller.is_operation:
                raise
        if caller.key is None and caller.is_operation:
            raise key_unknown()
        caller.secret = None

    async def _found(self, secret: str, record: AddressRecord | None) -> ApiKey | None:
        if self._keys is None:
            return self._anonymous
        if record is None or self._keys.is_known(secret):
            return await self._keys.find(secret)
        # Looked at again: the wrong keys of other connections have been counted since the head.
        if (wait := record.wrong_keys.wait(self._clock())) or not record.begin_look_up(secret):
            raise _too_many_keys(wait or 1.0)
        try:
            key = await self._keys.find(secret)
        finally:
            record.end_look_up(secret)
        if key is None:
            record.count_wrong(secret, self._clock())
        return key

    def _too_many_requests(self, wait_seconds: float) -> RateLimited:
        allowed = self._limits.requests_per_second
        message = f"This address may make {allowed} requests a second; {try_again(wait_seconds)}."
        details = {"limit": Limit.ADDRESS_REQUESTS_PER_SECOND.value, "allowed": allowed}
        return RateLimited(message, details=details, retry_after_seconds=wait_seconds)


def _too_many_keys(wait_seconds: float) -> RateLimited:
    message = f"Too many wrong keys came from this address; {try_again(wait_seconds)}."
    return RateLimited(message, details={"limit": "address_wrong_keys"}, retry_after_seconds=wait_seconds)


def _refuse_other_sites(headers_by_name: dict[bytes, bytes]) -> None:
    """Raises Forbidden for a request of another site's page, where no key is needed.

    A browser on this machine sends it for whatever page is open, and it would be answered and paid for. With keys it
    lacks one. Programs send no Origin.
    """
    origin = headers_by_name.get(b"origin")
    if origin is not None and not is_page_of_this_machine(origin.decode("latin-1")):
        raise Forbidden(
            "Without keys only programs and pages of this machine are served, and this request is of another site's "
            "page. Set REQUIRE_KEYS=true and send a key, or open the page under localhost."
        )


def _refuse_other_names(host: bytes) -> None:
    """Raises Forbidden for a request under a name that another site can have: its page lets that name lead here."""
    if not is_name_of_no_site(host.decode("latin-1")):
        raise Forbidden(
            "Without keys only this machine is served, under localhost or an address, and this request's Host header "
            "is another site's name. Set REQUIRE_KEYS=true and send a key, or send the request to 127.0.0.1.",
            param="host",
        )


def refuse_contradiction(headers: list[tuple[bytes, bytes]]) -> None:
    """Raises InvalidRequest if a header is there twice that must not be."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in _ONLY_ONCE:
            text = name.decode("latin-1")
            raise InvalidRequest(f"The header {text} is there more than once: send it once.", param=text)
        seen.add(name)

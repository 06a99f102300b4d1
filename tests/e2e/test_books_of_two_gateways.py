"""Mixed traffic over two gateways, one Redis and one Postgres: windows, quotas, ledger and settled money agree exactly.

In the suite these are 1,500 requests. `python -m tests.e2e.books_of_two_gateways 10000` makes any number of them.
"""

from __future__ import annotations

from pathlib import Path

from tests.e2e.books_of_two_gateways import checked, traffic
from tests.servers import PostgresServer, RedisServer


async def test_whatever_becomes_of_requests_the_books_agree_and_nobody_gets_more_than_their_limits(
    tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    redis_server.empty()
    checked(await traffic(1_500, tmp_path, redis_server, await postgres_server.emptied()))

"""Names the cause of a failure of Postgres and its remedy, by the driver's type of error."""

from __future__ import annotations

import re
import socket
import ssl

import asyncpg

from vllm_service.errors import StorageUnavailable
from vllm_service.storage.server_urls import missing_file, options_of

_NAME = re.compile(r'"([^"]{1,64})"')
#: The first type that fits counts. A remedy follows what is wrong.
_MEANINGS: tuple[tuple[type[BaseException], str, str], ...] = (
    (
        asyncpg.InvalidCatalogNameError,
        "has no database {name}",
        "Create it (`createdb {name}`), or correct the name at the end of DATABASE_URL",
    ),
    (
        asyncpg.InvalidPasswordError,
        "refuses the password",
        "Correct it in DATABASE_URL; signs in a password are written %XX",
    ),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "does not let this user in",
        "Correct the user in DATABASE_URL, create it (CREATE ROLE ... LOGIN), or permit it in pg_hba.conf",
    ),
    (
        asyncpg.InsufficientPrivilegeError,
        "does not give this user the right to do it",
        "Grant it: GRANT ALL ON DATABASE, and GRANT ALL ON SCHEMA public",
    ),
    (
        asyncpg.InvalidSchemaNameError,
        "has no schema in which this user may make tables",
        "Create one (CREATE SCHEMA public; GRANT ALL ON SCHEMA public), or set the user's search_path",
    ),
    (
        asyncpg.ReadOnlySQLTransactionError,
        "only reads: it is a standby, or default_transaction_read_only is on",
        "Name the primary server in DATABASE_URL",
    ),
    (
        asyncpg.TooManyConnectionsError,
        "has no connection left",
        "Raise max_connections or the role's CONNECTION LIMIT, or run fewer processes: each takes up to 4",
    ),
    (asyncpg.CannotConnectNowError, "is starting or stopping", "Try again in some seconds"),
    (asyncpg.AdminShutdownError, "has been stopped", "Start it again"),
    (asyncpg.DiskFullError, "has no room left on its disk", "Make room there"),
    (asyncpg.PostgresIOError, "cannot read or write its disk", "Check the disk, and its log"),
    (
        asyncpg.PostgresConnectionError,
        "has closed the connection",
        "Check that it runs, and its log; a proxy in between may have closed it too",
    ),
    (asyncpg.OutOfMemoryError, "has no memory left", "Give it more, or lower its work_mem"),
    (ConnectionRefusedError, "cannot be reached: nothing listens there", "Start it, or correct DATABASE_URL"),
    (FileNotFoundError, "cannot be reached: its socket does not exist", "Start it, or correct DATABASE_URL"),
    (
        ConnectionError,  # after its kinds: asyncpg raises it where the server answers no to TLS
        "breaks off the connection, or does not offer the TLS that sslmode wants",
        "Turn TLS on there, or correct sslmode in DATABASE_URL",
    ),
    (socket.gaierror, "cannot be reached: there is no such host", "Correct the host in DATABASE_URL, or DNS"),
    (ssl.SSLError, "cannot be reached: TLS failed", "Correct sslmode and sslrootcert in DATABASE_URL"),
    (TimeoutError, "does not answer in time", "Check its load, and that no firewall drops the connection"),
    (asyncpg.InternalClientError, "does not answer as Postgres does", "Check host and port in DATABASE_URL"),
)
#: What stops a migration for a reason that is not in the tables.
MAY_NOT_MIGRATE = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.ReadOnlySQLTransactionError,
    # No room, memory or connections; a shutdown; a connection that broke.
    *(asyncpg.InsufficientResourcesError, asyncpg.OperatorInterventionError, asyncpg.PostgresConnectionError),
    *(asyncpg.PostgresIOError, asyncpg.InterfaceError, OSError, TimeoutError),
)


def unavailable(error: BaseException, where: str) -> StorageUnavailable:
    """Returns the error in plain words, with the driver's type and what to do."""
    words = "cannot do this now"
    remedy = "If it lasts, check DATABASE_URL and the server"
    for kind, meaning, advice in _MEANINGS:
        if isinstance(error, kind):
            words = meaning
            remedy = advice
            break
    found = _NAME.search(str(error)) if isinstance(error, asyncpg.InvalidCatalogNameError) else None
    name = found[1] if found else "of that name"
    return StorageUnavailable(
        f"{where} {words.format(name=name)} ({type(error).__name__}). {remedy.format(name=name)}.",
        retry_after_seconds=1.0,
    )


#: The files that a URL may name.
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def tls_fault(url: str) -> str | None:
    """Returns which option for TLS in a URL of Postgres cannot be used, and what to do; None where all can."""
    # The driver takes the words with underscores too.
    if any(mode.replace("_", "-") not in _TLS_MODES for mode in options_of(url).get("sslmode", ())):
        return f"sslmode: expected one of {', '.join(_TLS_MODES)}."
    return missing_file(url, _TLS_FILES)


#: How the driver's error begins where it would verify a certificate, and has nothing to verify it with.
NO_ROOT = "root certificate file"
NEEDS_ROOT = (
    "sslmode=verify-ca and verify-full need the certificates of the authorities to trust. Add to the URL "
    "&sslrootcert=FILE: the authority of your Postgres, or this system's, such as /etc/ssl/certs/ca-certificates.crt."
)

"""Opens the worker's ports before the engine loads, so that a port that cannot be had ends the start at once."""

from __future__ import annotations

import errno
import socket

from handler.errors import ConfigurationError


class CannotListen(ConfigurationError):
    """The address or the port cannot be used. A port that is taken may be free at the next start."""

    code = "cannot_listen"

    def __init__(self, host: str, port: int, variable: str, error: Exception) -> None:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        remedy = "End the process that has it, or choose another" if taken else "Choose another"
        super().__init__(
            f"{variable}: cannot listen on {host}, port {port}: {_reason(error)}. {remedy}", param=variable
        )
        self.retryable = taken


def open_listener(host: str, port: int, port_variable: str) -> socket.socket:
    """Returns a socket that listens; raises CannotListen naming HOST or the variable of the port."""
    address = host.strip("[]")
    if not 0 <= port < 2**16:  # create_server would leave its socket open
        raise CannotListen(host, port, port_variable, OverflowError("a port is a number from 0 to 65535"))
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((address, port), family=family, backlog=2048)
    except (OSError, OverflowError, UnicodeError) as error:
        of_the_port = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
        raise CannotListen(host, port, port_variable if of_the_port else "HOST", error) from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

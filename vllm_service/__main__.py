"""Runs one verb: `vllm-service COMMAND`, the same as `python -m vllm_service COMMAND`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vllm_service.cli.exit_codes import FAILED, MISSING_EXTRA
from vllm_service.cli.extras import advice
from vllm_service.cli.parser import PROGRAM, parse
from vllm_service.errors import ServiceError


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Runs one command; returns its exit code, see cli/exit_codes.py. SystemExit where argparse ends the program."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = parse(given, program)
        code: int = options.run(options)
    except ServiceError as error:
        sys.stderr.write(f"{error.message}\n")
        return FAILED
    except ModuleNotFoundError as error:
        line = advice(error, " ".join([program, *given[:1]]))
        if line is None:
            raise
        sys.stderr.write(f"{line}\n")
        return MISSING_EXTRA
    return code


if __name__ == "__main__":
    sys.exit(main(program="python -m vllm_service"))

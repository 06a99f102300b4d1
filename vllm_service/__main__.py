"""Runs one verb: `vllm-service COMMAND`, the same as `python -m vllm_service COMMAND`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from vllm_service.cli.closed_streams import open_closed_streams
from vllm_service.cli.exit_codes import FAILED, MISSING_EXTRA, OUTPUT_CLOSED
from vllm_service.cli.extras import advice
from vllm_service.cli.parser import PROGRAM, parse
from vllm_service.errors import ServiceError, one_line


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Runs one command; returns its exit code, see cli/exit_codes.py. SystemExit where argparse ends the program."""
    open_closed_streams()
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else list(arguments), program)
        finally:
            # What is still buffered would otherwise fail when the interpreter ends, outside of this function.
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end: into the null device, where nothing can fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    except OSError as error:  # of a file or of the output: a full disk, no file left to open
        sys.stderr.write(f"{one_line(error)}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except SystemExit as end:
        # Rich makes a SystemExit(1) of a broken pipe, and has put the null device under standard output.
        if isinstance(end.__context__, BrokenPipeError):
            return OUTPUT_CLOSED
        raise


def _run(given: Sequence[str], program: str) -> int:
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

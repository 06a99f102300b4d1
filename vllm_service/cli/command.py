"""A verb of the command line: a description, its arguments, and the function that runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """One verb: the value of COMMAND in each verb's module."""

    #: Sentences for `VERB --help`.
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    #: Returns the exit code. A ServiceError that it raises is printed, and is exit code 1.
    run: Callable[[argparse.Namespace], int]

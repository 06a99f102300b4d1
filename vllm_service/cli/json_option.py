"""The --json option of the verbs that list something."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def write_json(document: Any) -> None:
    """Writes the document to standard output. Amounts and times have the units of their names."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")

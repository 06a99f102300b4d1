"""The worker's entry point, as RunPod and `python handler.py --test_input` start it. All of it lives in handler/."""

import sys

from handler.__main__ import main

if __name__ == "__main__":  # vLLM's processes import this file anew: they must not start another worker
    sys.exit(main())

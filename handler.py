"""The worker's entry point, as RunPod and `python handler.py --test_input` start it. All of it lives in handler/."""

import sys

from handler import logs
from handler.__main__ import main
from handler.start.children import end_as_a_spawned_process

if __name__ == "__main__":  # vLLM's processes import this file anew: they must not start another worker
    sys.exit(main())
if __name__ == "__mp_main__":
    logs.never_wait_for_stderr()
    logs.never_wait_for_stdout()
    end_as_a_spawned_process()

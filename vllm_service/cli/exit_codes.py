"""The exit codes of every verb."""

FAILED, WRONG_ARGUMENTS, MISSING_EXTRA = 1, 2, 3
DESCRIPTION = (
    f"exit codes: 0 done; {FAILED} not done, or a configuration that is wrong; {WRONG_ARGUMENTS} wrong arguments; "
    f"{MISSING_EXTRA} an extra is not installed"
)

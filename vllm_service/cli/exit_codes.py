"""The exit codes of every verb."""

#: The command was not carried out, or the configuration is wrong.
FAILED = 1
#: argparse's own.
WRONG_ARGUMENTS = 2
#: A library is missing that an extra of the package installs.
MISSING_EXTRA = 3
#: `deploy plan --check`: RunPod has something otherwise than it is specified.
DIFFERS = 4
#: `deploy apply`: everything is made, and no worker answered in time.
NOT_READY = 5
#: Ctrl-C during `deploy apply`: 128 + 2, what a shell reports for a program that SIGINT ends.
INTERRUPTED = 130
#: The reader of the output ended first, as `head` does: 128 + 13, what a shell reports for a program that SIGPIPE ends.
OUTPUT_CLOSED = 141
DESCRIPTION = (
    f"exit codes: 0 done; {FAILED} not done, or the configuration is wrong; {WRONG_ARGUMENTS} wrong arguments; "
    f"{MISSING_EXTRA} an extra is not installed; {DIFFERS} `deploy plan --check` found a difference; "
    f"{NOT_READY} `deploy apply` got no answer in time; {INTERRUPTED} it was interrupted; "
    f"{OUTPUT_CLOSED} the reader of the output ended first"
)

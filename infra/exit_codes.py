"""The exit codes of the commands."""

OK = 0
SOME_FAILED = 1  # the command finished, but some photos failed; it names each
WRONG_USAGE = 2  # a mistake of the user, found before any work
RUN_FAILED = 3  # the run failed; the same command resumes it

"""What the exit code of a command says."""

OK = 0
SOME_FAILED = 1  # it finished, but some photos failed: the report names each
WRONG_USAGE = 2  # the user's mistake, found before any work
RUN_FAILED = 3  # the run itself failed; the same command goes on where it was

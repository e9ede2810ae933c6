"""Where it runs: the commands, one machine's servers, benchmarks. May import everything but naturaltone.cli."""

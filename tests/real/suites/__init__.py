"""One file for each kind of client, server or hardship. `run_suite(stage, checks)` is the whole of it."""

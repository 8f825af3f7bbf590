"""The command line: reads what the user wrote, builds the run, reports mistakes in one line."""

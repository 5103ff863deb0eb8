"""The command line: reads options, calls one function of `workflow`, and prints tables."""

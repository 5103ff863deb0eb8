"""The command line: options in, pipeline calls, tables out."""

"""What every runtime does with the files of every target: one file for each runtime, see `__main__`."""

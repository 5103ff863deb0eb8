"""transformers.js with a package, in Node and in Chromium: see `__main__`."""

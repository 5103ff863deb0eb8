"""The options of a run, each declared once, and recipes, which are files of options."""

"""What a run is told: every option once, and recipes, which are files of options."""

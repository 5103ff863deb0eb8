"""One meter per task: how the answers of models are scored."""

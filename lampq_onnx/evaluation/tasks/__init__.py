"""What models are for, and how their answers are scored."""

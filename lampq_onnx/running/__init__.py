"""What runs while a command does: progress, and processes that share the work."""

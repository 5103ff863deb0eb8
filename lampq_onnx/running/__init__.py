"""What runs while a command works: progress, and processes that share the work."""

"""Files that appear whole or not at all, typed records as JSON, and results kept between runs."""

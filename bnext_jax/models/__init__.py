"""One file a network; `table` has them all by name."""

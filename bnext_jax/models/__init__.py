"""The networks, one file each. `table` lists all of them by name."""

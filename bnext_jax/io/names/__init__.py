"""The names that other programs give to the variables of the networks, and how a file's names tell its network."""

"""Networks and files: one door for whatever holds a network."""

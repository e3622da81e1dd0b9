"""Packed networks: one bit a binary weight in a file, and the forms that compute with these bits."""

"""Measurements: each script prints a table and writes results/*.json with its command, commit and machine."""

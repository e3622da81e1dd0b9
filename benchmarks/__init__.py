"""Benchmarks. Each script prints its measurements and writes them to results/NAME.json, with command, commit and machine."""

"""Measures how fast a network runs on this machine, packed and in floats, side by side."""

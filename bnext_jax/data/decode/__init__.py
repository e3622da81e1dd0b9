"""Decodes encoded images to pixels."""

"""The functions behind the command line, one module per command."""

"""Pictures: of a run, of its recipe, of a network, of the field."""

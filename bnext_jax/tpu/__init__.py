"""The compiler behind `plan`: real programs for TPUs that are not here."""

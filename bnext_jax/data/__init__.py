"""Data: datasets on disk (TFDS, array_record), transforms, and the pipeline of global batches (Grain)."""

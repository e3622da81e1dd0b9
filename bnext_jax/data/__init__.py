"""Data: datasets on disk (TFDS, array_record), image transforms, and the pipeline that makes global batches (Grain)."""

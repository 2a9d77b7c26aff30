"""Model families: trainable, exportable and compilable models, one file each."""

"""The formats, one file each, with what those of a kind share; `base` holds what a format is."""

"""The formats, one file each; they are discovered, not listed."""

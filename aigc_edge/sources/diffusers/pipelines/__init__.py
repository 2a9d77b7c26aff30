"""Pipeline families, one file each: how a folder becomes a `Layout`."""

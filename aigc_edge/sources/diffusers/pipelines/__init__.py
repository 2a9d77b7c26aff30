"""One file a family of pipeline classes: how its folder becomes a `Layout`."""

"""Engines: what evaluates a network. One module an engine, found by the scan of `ENGINES`."""

"""Turns a configured diffusers scheduler into rows by running it on unit vectors."""

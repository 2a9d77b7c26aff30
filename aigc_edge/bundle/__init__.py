"""Bundles: the file format, what a bundle holds, and reading, writing and amending one."""

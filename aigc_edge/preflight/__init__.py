"""Preflight: predict sizes, memory, time and unsupported formats from shapes, before anything is exported or built."""

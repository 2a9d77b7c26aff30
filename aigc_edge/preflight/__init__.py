"""Preflight: sizes, memory, time and what will not work, predicted from shapes, before anything is exported or built."""

"""The test suite. Test modules import helpers by their full name (`from tests.families import …`).

pytest imports this package from its own place (`--import-mode=importlib`), so that the repository's root is never on `sys.path`:
there, `aigc_edge/` without its compiled core would shadow the installed wheel.
"""

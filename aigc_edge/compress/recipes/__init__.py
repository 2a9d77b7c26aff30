"""Recipes by which networks are converted to formats, and the mixed-precision conversion that they share."""

"""The contents of a bundle, as text for a terminal and as an HTML page."""

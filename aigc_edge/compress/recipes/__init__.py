"""How a network becomes one of a format: recipes that formats share."""

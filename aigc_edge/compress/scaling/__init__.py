"""How weights are rounded, scaled and pruned so that products err least."""

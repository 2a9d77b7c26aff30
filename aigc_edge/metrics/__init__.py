"""Quality metrics of generated images: distances between sets, errors between pairs, and the judge."""

"""What a compressed network is measured against, and the search for the layers that stay in float."""

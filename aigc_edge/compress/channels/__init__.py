"""Which channels of a network may go together, and the network without them."""

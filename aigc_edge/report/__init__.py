"""What a bundle holds, as text for a terminal and as one HTML page."""

"""Opening a bundle and sampling from it; nothing here needs torch."""

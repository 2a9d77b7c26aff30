"""Evaluating compressed networks against float32, and the search for one that holds a quality budget."""

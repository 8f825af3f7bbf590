"""Learning of the shipped configurations, held against fixed gates and published numbers."""

"""How experience is made: collecting, sources of training batches, evaluation, random streams."""

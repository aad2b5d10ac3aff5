"""What the dialects mean, in a few lines of numpy for each operation: the oracle of the tests."""

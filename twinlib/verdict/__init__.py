"""Your file in, a verdict out: what is in a file, a page on it, predictions and their scores."""

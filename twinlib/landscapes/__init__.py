"""Systems whose answer is known, as plain arrays."""

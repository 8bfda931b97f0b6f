"""What only pages use: figures, recorded numbers, surfaces to turn."""

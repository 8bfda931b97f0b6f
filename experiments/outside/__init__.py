"""Models of other groups: what they are given, where they run, and one small script for each."""

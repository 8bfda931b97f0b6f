"""What makes the folder `results/`: one runner, one short file an experiment; not part of the wheel."""

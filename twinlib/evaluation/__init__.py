"""How far a prediction or a trajectory is from the real cells, beside floors and ceilings."""

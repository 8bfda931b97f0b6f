"""The experimental twin: supervised prediction f(x, p) -> y and the baselines it must beat."""

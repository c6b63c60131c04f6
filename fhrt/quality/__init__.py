"""How good a result is: metrics, the scoring protocols, detection scores."""

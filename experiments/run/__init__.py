"""Running an experiment: its cells, who computes them, what is kept of them, and the models they need."""

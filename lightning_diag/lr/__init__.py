"""Learning rates: warm-up, scaling, schedules."""

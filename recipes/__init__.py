"""nemo-run recipes: experiments and model sizes as functions."""

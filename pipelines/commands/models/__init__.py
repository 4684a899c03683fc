"""Commands for runs and registered models.  May import every folder of `pipelines`."""

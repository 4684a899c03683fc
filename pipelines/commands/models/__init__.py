"""Commands around runs and registered models."""

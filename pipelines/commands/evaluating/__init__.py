"""Commands that score models and maps, and show what they answer."""

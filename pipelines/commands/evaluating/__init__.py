"""Commands that score models and maps, and draw or export their maps."""

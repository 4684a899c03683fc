"""Commands that train, or send training to a cluster."""

"""Training pipelines on Ray: stages, tracking, evaluation, registry, commands."""

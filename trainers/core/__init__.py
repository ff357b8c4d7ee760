"""Parts that every recipe shares: run folder, files, metrics, environment."""

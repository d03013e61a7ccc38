"""Tasks: data sources, losses and metrics; they know no model."""

"""Pages of the site that are made of the code: one a mixer, one a task, the reference."""

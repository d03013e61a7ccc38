"""What a model costs, and models made to cost the same."""

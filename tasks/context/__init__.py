"""Questions whose answer stands in a long text before them: RULER, BABILong, phone books."""

"""Random command lines, files and moments: every one ends as the documentation says."""

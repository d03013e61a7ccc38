"""What a comparison gives to papers and terminals: tables, figures, a look at its work."""

"""What papers and terminals get: tables, figures, bars, a look at work that goes on."""

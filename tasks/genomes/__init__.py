"""DNA: FASTA files of one's own, or small genomes that packages bring."""

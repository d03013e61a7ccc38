"""What stands behind an encoder that learns without labels."""

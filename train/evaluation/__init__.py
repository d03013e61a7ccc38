"""What a trained model does: on a whole split, along axes, by the streaming form."""

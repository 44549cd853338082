"""What training jobs share."""

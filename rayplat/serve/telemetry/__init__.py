"""What serving counts and traces."""

"""What each experiment logger can show."""

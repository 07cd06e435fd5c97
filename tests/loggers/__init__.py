"""What experiment loggers show."""

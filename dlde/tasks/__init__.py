"""What the methods of one kind share: the data or points, the loss, the measurement, the served operation."""

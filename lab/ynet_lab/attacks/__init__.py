"""What can be read out of a model, an update or a code: lower bounds."""

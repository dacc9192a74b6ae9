"""What both processes run on: home folder, terminal, control socket, private files, backup, metrics."""

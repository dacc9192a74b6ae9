"""Which of the server's models this site takes up, and what it checks first."""

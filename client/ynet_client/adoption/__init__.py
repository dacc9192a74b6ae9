"""The adoption of models: which of the server's models this site uses, and what it checks first."""

"""Speed, measured side by side. Notebook 50 shows it."""

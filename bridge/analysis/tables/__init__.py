"""Tables as CSV, Markdown, LaTeX and HTML."""

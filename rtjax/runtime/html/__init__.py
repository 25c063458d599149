"""HTML reports: document, charts, tables, number formats, episode images."""

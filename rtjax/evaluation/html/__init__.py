"""Parts of HTML reports: style, charts, tables, thumbnails."""

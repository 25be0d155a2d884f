"""From files and folders to records: sources, selection, mixture, overlap."""

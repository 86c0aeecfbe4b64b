"""The interactive part of a report page: what it shows as data, and the scripts that show it."""

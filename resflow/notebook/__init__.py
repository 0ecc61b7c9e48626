"""What this project's notebooks share beside their mathematics; the one room that knows library and workflow."""

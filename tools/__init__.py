"""What a developer runs. Not part of the wheel."""

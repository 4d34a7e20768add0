"""Pure maths that is no loss."""

__all__: list[str] = []

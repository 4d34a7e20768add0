"""What one minimises, or a term of it: pure functions, student first, teacher second."""

__all__: list[str] = []

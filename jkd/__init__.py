"""jkd: functional knowledge distillation in JAX."""

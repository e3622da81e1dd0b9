"""Knowledge distillation: losses, teachers, their schedule."""

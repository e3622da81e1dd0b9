"""Knowledge distillation: losses, known teachers, and the schedule of teachers in a run."""

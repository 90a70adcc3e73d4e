"""What the diffusion methods share: schedules, losses and samplers."""

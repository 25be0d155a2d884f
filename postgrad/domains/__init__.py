"""Procedurally generated fields with exact answers: what the laptop presets and the tests train on."""

"""Whole models for tasks: an encoder and what reads it out, what they are drawn from."""

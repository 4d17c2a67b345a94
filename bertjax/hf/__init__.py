"""Hugging Face directories in and out, by the tables of each model family: no torch, no transformers, no pickle."""

"""Chainer networks: hooks for the forward pass, the retriever, and a few functions."""

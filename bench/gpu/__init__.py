"""Training and sampling on one GPU, beside TRL, transformers, Liger and vLLM: python -m bench.gpu [ROW ...]"""

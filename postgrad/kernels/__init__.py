"""Kernels: is this one right, how fast is it, and can both be believed?"""

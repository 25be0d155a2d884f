"""Turn records into batches, batches into weights. Modules here import torch; this file does not."""

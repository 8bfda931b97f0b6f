"""From the gene graph to latent cells, and what a gene or a perturbation is in that space."""

"""From text to tokens to rows: sources, tokenizers, token bins, and the plan that says which tokens a step eats."""

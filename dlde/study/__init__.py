"""Studies: a pipeline over variants, axes and seeds; its table, its claim, and the page that tells both."""

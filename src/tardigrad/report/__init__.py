"""Pictures, tables and the page: what a comparison or a run looks like. The only package that imports matplotlib."""

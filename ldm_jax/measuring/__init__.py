"""A run measured: `evaluation` scores images, this draws and reports them."""

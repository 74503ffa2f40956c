"""Settings of Sphinx, which makes a site of this folder: make docs."""

project = "fastiter"
extensions = ["myst_parser"]
myst_enable_extensions = ["amsmath", "dollarmath"]

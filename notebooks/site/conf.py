"""Sphinx's settings for the site. ``reid_core/site.py`` lays out its sources and runs it.

The pages must be readable from a disk without network: everything that they load lies beside them.
"""

from importlib.resources import files

# one file with all of TeX in it, and pictures for letters: browsers refuse to load fonts from a
# disk. The package is used for its files alone; its extension would copy 25 MB.
MATHJAX = files("sphinx-mathjax-offline") / "static/mathjax/tex-svg-full.js"

project = "Visible–infrared person re-identification"
html_title = project
language = "en"
extensions = ["myst_nb"]

nb_execution_mode = "off"  # papermill has executed them
nb_ipywidgets_js = {}  # else from a CDN
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_static_path = ["site.css", str(MATHJAX)]
html_css_files = ["site.css"]
html_copy_source = False
html_use_index = False
mathjax_path = MATHJAX.name
mathjax4_config = {"options": {"enableMenu": False}}  # the menu loads files that are not there

"""Models, losses, data and measures for visible-infrared person re-identification."""

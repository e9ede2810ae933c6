"""HTML pages of pictures and tables that open in any browser, without a network. Knows no model."""

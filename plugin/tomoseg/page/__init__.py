"""A run as one page for the browser: what failed, and what somebody should look at."""

from tomoseg.page.document import write_page

__all__ = ["write_page"]

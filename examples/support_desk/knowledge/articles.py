"""What the support desk knows."""

_ARTICLES = {
    "password": "Choose 'Forgot password' on the sign-in page; the link that arrives by mail is good for an hour.",
    "invoice": "Invoices are under Account, Billing, as PDF files for the last ten years.",
}
_NONE = "There is no article about this; a colleague will write to you."


def find_article(problem: str) -> str:
    """Find the article whose keyword is in the problem."""
    return next((text for word, text in _ARTICLES.items() if word in problem.lower()), _NONE)

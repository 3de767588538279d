"""What the actioner raises beside the chassis' errors, and who catches it.

* SigningKeyError (IdentityError)   main: print the line, exit 2
"""

from microedr_chassis.errors import IdentityError


class SigningKeyError(IdentityError):
    """The key that signs orders cannot be used; the text names the file, never its content."""

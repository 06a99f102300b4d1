"""Learns whether a provider takes `stream_options`, which request the usage of a stream. Gateway and client share it.

Most providers take it; some refuse it with 400 or 422, in as many words as there are providers. So it is sent once; a
stream that is refused is sent again without it, and if that is answered, the provider gets it no more.
"""

from __future__ import annotations

import re

import msgspec

_REFUSALS = (400, 422)
#: Their names in small letters alone, since some write `streamOptions`.
_NAMES = ("streamoptions", "includeusage")
_OTHER_THAN_LETTERS = re.compile(r"[^a-z]")
#: What a message about a member has that is one too many, whether it names the member or not; and what a message has
#: that says no more than its status does.
_ONE_TOO_MANY = re.compile(
    r"extra|additional|unexpected|unknown|unrecogni[sz]ed|unsupported"
    r"|not (?:permitted|allowed|supported|recogni[sz]ed|available)"
    r"|bad request|invalid request|validation|schema|\b(?:parameter|argument|field|option|stream)",
    re.IGNORECASE,
)


class StreamOptionsSupport(msgspec.Struct):
    """The knowledge of one provider. It is made anew with each configuration, so a reload forgets what was learned."""

    #: Whether streams with them are answered; None: not known yet.
    is_taken: bool | None = None
    #: Whether the configuration has decided it, so that nothing is learned.
    is_fixed: bool = False

    @classmethod
    def configured(cls, switch: bool | None) -> StreamOptionsSupport:
        """Returns the state at first. switch: of providers.yaml; None: it is to be learned."""
        return cls(switch, switch is not None)

    @property
    def are_sent(self) -> bool:
        """True if streams are sent with them."""
        return self.is_taken is not False

    def may_be_why(self, status: int, param: str | None, text: str) -> bool:
        """Returns whether a stream was refused because of them, so that it is worth sending without.

        param, text: the field that the error names, and its message. Until a stream with them has been answered, a
        refusal of something unnamed may be; afterwards only one that names them.
        """
        if self.is_fixed or status not in _REFUSALS:
            return False
        letters = _OTHER_THAN_LETTERS.sub("", f"{param} {text}".lower())
        if any(name in letters for name in _NAMES):
            return True
        return self.is_taken is None and not param and (not text or _ONE_TOO_MANY.search(text) is not None)

    def taken(self) -> None:
        """Learns from a stream that was answered with them."""
        self.is_taken = True

    def refused(self) -> None:
        """Learns from a stream that was refused with them and answered without."""
        self.is_taken = False

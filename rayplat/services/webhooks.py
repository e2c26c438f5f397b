"""Verbs on webhooks: who outside is told of what happens here."""

from __future__ import annotations

from dataclasses import dataclass

from rayplat.registry import standard_webhooks
from rayplat.registry.record import webhooks
from rayplat.services.verbs import Noun, route
from rayplat.types import Role, Webhook


@dataclass(frozen=True)
class NewWebhook:
    """``secret`` signs every message (Standard Webhooks); it is shown this once."""

    webhook: Webhook
    secret: str


class Webhooks(Noun):
    """Receivers of events, each message signed, delivered in order and at least once."""

    NAME = "webhooks"

    @route("GET", "/webhooks", Role.ADMIN)
    def list(self) -> tuple[Webhook, ...]:
        """All receivers, how far each is, and the last error of one that is behind or parked."""
        return tuple(self._context.registry.read(webhooks.listed))

    @route("POST", "/webhooks", Role.ADMIN)
    def create(self, receiver: str, events: tuple[str, ...] = ("*",)) -> NewWebhook:
        """Tell the URL ``receiver`` of events from now on: all, or those named.

        A name is an event's (``promotion.live``) or a noun's (``promotion.*``). Raises InvalidInput for an address that
        the settings do not permit, AlreadyExists."""
        secret = standard_webhooks.new_secret()
        made = self._context.registry.write(webhooks.create, receiver, events, secret, by=self._context.principal)
        return NewWebhook(made, secret)

    @route("DELETE", "/webhooks/{webhook_id}", Role.ADMIN)
    def delete(self, webhook_id: str) -> None:
        """Tell a receiver nothing any more. Raises NotFound."""
        self._context.registry.write(webhooks.delete, webhook_id, by=self._context.principal)

    @route("POST", "/webhooks/{webhook_id}/test", Role.ADMIN)
    def test(self, webhook_id: str) -> None:
        """Send a receiver the event ``webhook.test``, after those that wait."""
        self._context.registry.write(webhooks.test, webhook_id, by=self._context.principal)

    @route("POST", "/webhooks/{webhook_id}/replay", Role.ADMIN)
    def replay(self, webhook_id: str, from_seq: int) -> Webhook:
        """Send again from an event on, with the ids the messages had; a parked receiver is active again."""
        return self._context.registry.write(webhooks.replay, webhook_id, from_seq, by=self._context.principal)

"""One POST to one receiver: resolved once, checked, and sent to exactly the address that was checked.

No redirect is followed, no proxy of the environment is used, and of an answer only the status counts.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from rayplat.errors import InvalidInput
from rayplat.registry import egress
from rayplat.registry.egress import Address, EgressRules, Target
from rayplat.registry.standard_webhooks import Answer, retry_after_s

_MOST_ADDRESSES = 3
_AGENT = "rayplat (standard-webhooks)"


class HttpSender:
    """Sends to where ``rules`` permit, each try within ``timeout_s`` seconds, resolving and connecting included.

    ``ca_file``: a PEM file of authorities beside the system's. ``resolve`` may be replaced in tests.
    """

    def __init__(
        self,
        rules: EgressRules,
        timeout_s: float,
        ca_file: str | None = None,
        resolve: Callable[[Target], list[Address]] = egress.resolve,
    ) -> None:
        self._rules, self._timeout_s, self._resolve = rules, timeout_s, resolve
        self._resolver = ThreadPoolExecutor(16, "resolve")  # of its own: names that do not answer keep its threads busy
        self._tls = ssl.create_default_context()
        if ca_file is not None:
            self._tls.load_verify_locations(ca_file)

    async def post(self, url: str, headers: Mapping[str, str], content: bytes) -> Answer:
        """Send ``content`` and say what became of it; raises nothing but cancellation."""
        import httpx

        try:
            async with asyncio.timeout(self._timeout_s):
                target = self._rules.target(url)
                loop = asyncio.get_running_loop()
                addresses = await loop.run_in_executor(self._resolver, self._resolve, target)
                self._rules.check(target.host, addresses)
                return await self._to_any(target, addresses[:_MOST_ADDRESSES], headers, content)
        except InvalidInput as e:
            return Answer(None, f"not permitted: {e}", refused=True)
        except TimeoutError:
            return Answer(None, f"no answer within {self._timeout_s:g} s")
        except (OSError, httpx.HTTPError, UnicodeError) as e:
            return Answer(None, f"{type(e).__name__}: {e}" if str(e) else type(e).__name__)

    def close(self) -> None:
        """Wait for nothing; threads that resolve end by themselves."""
        self._resolver.shutdown(wait=False, cancel_futures=True)

    async def _to_any(
        self, target: Target, addresses: list[Address], headers: Mapping[str, str], content: bytes
    ) -> Answer:
        """The answer of the first address that takes the connection."""
        import httpx

        for address in addresses[:-1]:
            try:
                return await self._to(target, address, headers, content)
            except httpx.ConnectError:
                continue
        if not addresses:
            return Answer(None, f"{target.host} has no address")
        return await self._to(target, addresses[-1], headers, content)

    async def _to(self, target: Target, address: Address, headers: Mapping[str, str], content: bytes) -> Answer:
        import httpx

        url = httpx.URL(scheme=target.scheme, host=str(address), port=target.port, raw_path=target.path.encode("ascii"))
        sent = {**headers, "host": target.host_header, "user-agent": _AGENT, "connection": "close"}
        extensions: dict[str, Any] = {"sni_hostname": target.host}
        options: dict[str, Any] = {"verify": self._tls, "trust_env": False, "follow_redirects": False}
        async with (
            httpx.AsyncClient(timeout=self._timeout_s, **options) as client,
            client.stream("POST", url, content=content, headers=sent, extensions=extensions) as answer,
        ):
            now = datetime.now(UTC)
            return Answer(
                answer.status_code, f"the receiver answered {answer.status_code}", retry_after_s(answer.headers, now)
            )
